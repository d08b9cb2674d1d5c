"""python -m distseg: lists the programs."""

import importlib

PROGRAMS = ("pack", "train", "evaluate")


def main() -> None:
    print("distseg: distributed training of segmentation networks, measured per weather condition\n")
    for name in PROGRAMS:
        sentence = (importlib.import_module(f"distseg.{name}").__doc__ or "").strip().split("\n\n")[-1].split(". ")[0]
        print(f"  python -m distseg.{name:<9} {' '.join(sentence.split()).rstrip('.')}")
    print("\nEach has --help. Start with: python -m distseg.train")


if __name__ == "__main__":
    main()
