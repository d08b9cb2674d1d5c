"""python -m distseg: lists the programs."""

PROGRAMS = {
    "pack": "packs a data set into WebDataset shards; verifies and shows what was packed",
    "train": "trains a recipe on a Ray cluster, or without one under torchrun",
    "tune": "searches a space for the best configuration, over Ray Tune",
    "evaluate": "evaluates a checkpoint on any split and conditions",
    "study": "the papers' comparisons on town, each a table by one resumable command",
    "stylize": "trains AdaIN style networks, and restyles data sets with them",
    "report": "runs side by side, with what the test images can and cannot tell",
    "sync": "sends what the tracking server has not of a run",
    "predict": "segments the photographs of a directory",
    "export": "writes a checkpoint's network as ONNX or torch.export, checked",
    "models": "the networks side by side: parameters, operations, milliseconds",
}


def main() -> None:
    print("distseg: distributed training of segmentation networks, measured per weather condition\n")
    for name, sentence in PROGRAMS.items():
        print(f"  python -m distseg.{name:<9} {sentence}")
    print("\nEach has --help. Start with: python -m distseg.train")


if __name__ == "__main__":
    main()
