"""AdaIN by hand, the style network's training, and restyling in training, at evaluation and of a data set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distseg import stylize
from distseg.config import AugmentConfig, CheckpointConfig, LossConfig, Precision, RunConfig, StyleConfig, model_config
from distseg.data.loading.plan import SampleRef
from distseg.data.loading.source import Decoded, Out, Source
from distseg.data.loading.transforms import UInt8Array
from distseg.data.shards.manifest import load_manifest, read_index, read_sample
from distseg.deployment import load_model
from distseg.errors import CheckpointError, ConfigError, DataError, TrainingError
from distseg.evaluation import World, normalize
from distseg.models import StyleLosses, StyleNetwork, build_model, build_style_network
from distseg.models.networks.adain import Statistics, adain, statistics
from distseg.training import checkpoint, restyling
from distseg.training.optim import LossScale
from distseg.training.restyling import Restyler, SourceStyle, load_style_network
from distseg.training.style_transfer import StyleTransfer
from distseg.training.trainer import check_run, train_run
from tests import programs, ranks
from tests.unit.training.test_fit import losses

TARGETS = ("night", "winter")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state dict as torchvision's, of a ResNet-18 that is random but for its statistics."""
    torch.manual_seed(0)
    backbone = build_model(model_config(backbone="resnet18"), 3).backbone
    path = tmp_path_factory.mktemp("encoder") / "resnet18.pt"
    torch.save(backbone.state_dict(), path)
    return str(path)


@pytest.fixture
def style_config(tiny_config: RunConfig, encoder: str) -> RunConfig:
    return replace(
        tiny_config,
        model=model_config("adain", backbone="resnet18", style_depth=1, pretrained=encoder),
        loss=LossConfig(aux_weight=0.0),
        style=StyleConfig(conditions=TARGETS),
        optim=replace(tiny_config.optim, name="adamw", lr=1e-3, max_steps=6),
        data=replace(tiny_config.data, train_conditions=("dawn",)),
    )


@pytest.fixture
def network_uri(style_config: RunConfig, tmp_path: Path) -> str:
    """A style network after a few steps."""
    train_run(style_config, World(), ranks.Recorder(tmp_path / "network"))
    found = checkpoint.newest(str(tmp_path / "network"))
    assert found is not None
    return found[0]


@pytest.fixture
def restyled_config(light_config: RunConfig, network_uri: str) -> RunConfig:
    """A segmentation of dawn, its images restyled to night and winter."""
    return replace(
        light_config,
        style=StyleConfig(network=network_uri, conditions=TARGETS, kl_weight=0.5),
        data=replace(light_config.data, train_conditions=("dawn",)),
        optim=replace(light_config.optim, max_steps=4),
    )


def test_adain_takes_over_means_and_deviations() -> None:
    z = torch.randn(2, 3, 5, 7, dtype=torch.float64) * 4 + 1
    style = Statistics(torch.randn(2, 3, 1, 1).double(), torch.rand(2, 3, 1, 1).double() + 0.5)
    found = statistics(adain(z, style))
    torch.testing.assert_close(found.mean_BC11, style.mean_BC11)
    torch.testing.assert_close(found.std_BC11, style.std_BC11, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adain(z, statistics(z)), z)


def test_adain_by_hand() -> None:
    z = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2).double()  # mean 2, deviation 1
    style = Statistics(torch.tensor(10.0).view(1, 1, 1, 1).double(), torch.tensor(4.0).view(1, 1, 1, 1).double())
    assert adain(z, style).flatten().tolist() == pytest.approx([6, 14], abs=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_composites_have_the_size_of_the_image(depth: int, encoder: str) -> None:
    config = model_config("adain", backbone="resnet18", style_depth=depth, pretrained=encoder)
    network = build_style_network(config).eval()
    images = torch.randn(2, 3, 45, 67)
    assert network.restyle(images, network.style_of(torch.randn(2, 3, 33, 33))).shape == images.shape
    assert len(network.taps(images)) == depth + 1


def test_strength_0_only_encodes_and_decodes(encoder: str) -> None:
    network = build_style_network(model_config("adain", backbone="resnet18", pretrained=encoder)).eval()
    images, style = torch.randn(1, 3, 40, 40), network.style_of(torch.randn(1, 3, 40, 40))
    plain = network.decode(network.taps(images)[-1], images)
    torch.testing.assert_close(network.restyle(images, style, 0.0), plain)
    assert not torch.allclose(network.restyle(images, style, 1.0), plain)


def test_the_decoder_learns_and_the_encoder_does_not(style_config: RunConfig) -> None:
    config = replace(style_config, optim=replace(style_config.optim, max_steps=25))
    recorder = ranks.Recorder()
    training = train_run(config, World(), recorder)
    assert isinstance(training, StyleTransfer)
    assert isinstance(training, StyleTransfer)
    first, last = (np.mean(part) for part in np.array_split(recorder.losses(), 5)[:: len(recorder.losses()) // 5 - 1])
    assert last < first
    fresh = torch.load(str(config.model.pretrained), weights_only=True)
    assert all(
        torch.equal(value, fresh[key].to(value.dtype)) for key, value in training.network.backbone.state_dict().items()
    )


def test_in_fp16_the_decoder_learns_what_it_does_in_fp32(
    style_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LossScale, "FIRST", 2.0**4)  # no step overflows
    config = replace(style_config, optim=replace(style_config.optim, name="sgd", lr=1e-4, max_steps=2))

    def decoder(precision: Precision, max_steps: int = 2) -> Tensor:
        optim = replace(config.optim, max_steps=max_steps)
        training = train_run(replace(config, optim=optim, precision=precision), World(), ranks.Recorder())
        assert isinstance(training, StyleTransfer)
        return torch.cat([weight.detach().flatten() for weight in training.network.decoder.parameters()])

    exact, half, less = decoder("fp32"), decoder("fp16"), decoder("fp32", max_steps=1)
    assert 0 < (exact - half).norm() < 0.1 * (exact - less).norm()


def test_the_style_network_is_the_same_on_one_and_two_ranks(style_config: RunConfig) -> None:
    one, two = ranks.train(style_config, 1), ranks.train(style_config, 2)
    assert (losses(one) - losses(two)).abs().max() < 1e-8


def test_a_stopped_style_network_goes_on_exactly(style_config: RunConfig, tmp_path: Path) -> None:
    config = replace(style_config, checkpoint=CheckpointConfig(every_steps=3))
    undisturbed = ranks.train(config, 1)
    before = ranks.train(config, 2, folder=tmp_path, stop_at=3)
    after = ranks.train(config, 1, folder=tmp_path)
    assert (losses({**after, **before}) - losses(undisturbed)).abs().max() < 1e-8


@pytest.mark.parametrize("kl_weight", [pytest.param(0.0, marks=pytest.mark.long), 0.5])
def test_training_on_composites_is_the_same_on_one_and_two_ranks(restyled_config: RunConfig, kl_weight: float) -> None:
    config = replace(restyled_config, style=replace(restyled_config.style, kl_weight=kl_weight))
    one, two = ranks.train(config, 1), ranks.train(config, 2)
    assert (losses(one) - losses(two)).abs().max() < 1e-8
    assert ("train/kl_loss" in one[1]) == (kl_weight > 0)
    plain = ranks.train(replace(config, style=StyleConfig()), 1)
    assert (losses(one) - losses(plain)).abs().max() > 1e-4


def test_towards_source_restyles_at_evaluation_alike_on_any_number_of_ranks(
    restyled_config: RunConfig, tmp_path: Path
) -> None:
    style = StyleConfig(network=restyled_config.style.network, direction="to_source")
    config = replace(restyled_config, style=style, data=replace(restyled_config.data, val_conditions=TARGETS))
    folder = tmp_path / "segmentation"
    one, two = ranks.train(config, 1, folder=folder), ranks.train(config, 2)
    assert one[4]["val/mIoU"] == two[4]["val/mIoU"]
    plain = ranks.train(replace(config, style=StyleConfig()), 1)
    assert (losses(one) - losses(plain)).abs().max() == 0  # trained the same
    assert one[4]["val/PA"] != plain[4]["val/PA"]
    found = checkpoint.newest(str(folder))
    assert found is not None
    model = load_model(found[1], torch.device("cpu"), "fp64")
    image = normalize(torch.randint(256, (1, 3, 40, 48), dtype=torch.uint8), "fp64")
    assert model(image).main_BKhw.isfinite().all()


@pytest.mark.parametrize("num_asked", [64, 10])
def test_the_style_of_the_source_is_of_evenly_spread_images_and_no_others_are_read(
    restyled_config: RunConfig, monkeypatch: pytest.MonkeyPatch, num_asked: int
) -> None:
    """Of 36 images all, or 10 of ten places; the same on every rank."""
    style = StyleConfig(network=restyled_config.style.network, direction="to_source")
    config = replace(restyled_config, style=style, data=replace(restyled_config.data, train_conditions=()))
    manifest = load_manifest(config.data.uri)
    shards = manifest.select("train")
    keys = [(shard.name, entry.key) for shard in shards for entry in read_index(manifest, shard).entries]
    read: list[tuple[str, str]] = []
    images: list[UInt8Array] = []
    plain_read = Source.read

    def counting(source: Source, ref: SampleRef, out: Out | None = None) -> Decoded:
        sample = plain_read(source, ref, out)
        read.append((sample.shard.name, sample.key.rpartition("/")[2]))
        images.append(sample.image_HW3.copy())
        return sample

    monkeypatch.setattr(Source, "read", counting)
    monkeypatch.setattr(restyling, "SOURCE_IMAGES", num_asked)
    found = SourceStyle.of_run(config, manifest, torch.device("cpu"), "fp64")
    assert found is not None
    num = min(num_asked, len(keys))
    wanted = [keys[(2 * i + 1) * len(keys) // (2 * num)] for i in range(num)]
    assert len(keys) == 36 and sorted(read) == sorted(wanted)
    inputs = [normalize(torch.from_numpy(image)[None].permute(0, 3, 1, 2), "fp32").double() for image in images]
    styles = [found.network.style_of(each) for each in inputs]
    mean = torch.stack([each.mean_BC11 for each in styles]).mean(0)
    torch.testing.assert_close(found.statistics.mean_BC11, mean)


def test_a_resumed_run_keeps_the_style_of_the_source_that_it_began_with(
    restyled_config: RunConfig, tmp_path: Path
) -> None:
    style = StyleConfig(network=restyled_config.style.network, direction="to_source")
    config = replace(restyled_config, style=style, optim=replace(restyled_config.optim, max_steps=1))
    train_run(config, World(), ranks.Recorder(tmp_path / "run"))
    found = checkpoint.newest(str(tmp_path / "run"))
    assert found is not None
    before = {name: value + 0.5 for name, value in found[1].source_style.items()}
    longer = replace(config, optim=replace(config.optim, max_steps=2))
    resumed = train_run(longer, World(), ranks.Recorder(), resume=replace(found[1], source_style=before))
    for name, value in resumed.checkpoint_content()["source_style"].items():
        assert torch.equal(value, before[name])


def test_styles_are_of_the_train_split_and_the_target_conditions(restyled_config: RunConfig) -> None:
    manifest = load_manifest(restyled_config.data.uri)
    restyler = Restyler(restyled_config, manifest, World(), "fp64", 0)
    keys = [key for _ in range(10) for key in next(restyler.reader).keys]
    restyler.close()
    assert {key.split("-")[0] for key in keys} == {"train/night", "train/winter"}


def test_what_cannot_be_is_refused(style_config: RunConfig, restyled_config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"model.pretrained = None: a style network needs a trained encoder"):
        check_run(replace(style_config, model=replace(style_config.model, pretrained=None)))
    with pytest.raises(DataError, match="no condition 'snow' in split 'train'"):
        check_run(replace(style_config, style=StyleConfig(conditions=("snow",))))
    with pytest.raises(ConfigError, match=r"optim.accumulate_steps = 2: adain has no such option; give 1"):
        replace(style_config, optim=replace(style_config.optim, accumulate_steps=2))
    with pytest.raises(ConfigError, match=r"style.kl_weight = 0.1: needs style.network"):
        StyleConfig(kl_weight=0.1)
    with pytest.raises(ConfigError, match=r"style.conditions = \(\): name the conditions to restyle to"):
        StyleConfig(network="x")
    with pytest.raises(ConfigError, match=r"style.conditions = .*: name the conditions to learn the style of"):
        replace(style_config, style=StyleConfig())


def test_a_style_network_whose_loss_is_not_finite_stops_and_names_the_samples(style_config: RunConfig) -> None:
    config = replace(
        style_config,
        optim=replace(style_config.optim, lr=1e30),
        tracking=replace(style_config.tracking, log_every_steps=100),
    )
    config = replace(config, checkpoint=CheckpointConfig(every_steps=2))
    recorder = ranks.Recorder()
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (nan|inf) on train/dawn-.*tar/"):
        train_run(config, World(), recorder)


def test_a_style_network_is_not_changed_by_a_gradient_that_is_not_finite(
    style_config: RunConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [], StyleNetwork.forward

    def poisoned_forward(network: StyleNetwork, content: Tensor, style: Tensor) -> StyleLosses:
        found = forward(network, content, style)
        calls.append(found)
        zero = found.mean - found.mean.detach()
        return found._replace(mean=found.mean + (zero.sqrt() if len(calls) == 3 else zero * 0))

    monkeypatch.setattr(StyleNetwork, "forward", poisoned_forward)
    config = replace(style_config, checkpoint=CheckpointConfig(every_steps=1))
    with pytest.raises(TrainingError, match=r"the gradient of the loss of step 3 is (nan|inf) on train/dawn-.*tar/"):
        train_run(config, World(), ranks.Recorder(run_folder))
    kept = checkpoint.newest(str(run_folder))
    assert kept is not None and kept[1].step == len(checkpoint.found_in(str(run_folder))) == 2
    train_run(config, World(), ranks.Recorder(run_folder), resume=kept[1])
    assert [found.step for found in checkpoint.found_in(str(run_folder))] == [6, 5, 4, 3, 2, 1]


def test_a_style_network_segments_nothing(network_uri: str) -> None:
    with pytest.raises(CheckpointError, match="adain restyles images and segments none"):
        load_model(checkpoint.read(network_uri), torch.device("cpu"), "fp32")


def test_a_segmentation_network_is_no_style_network(light_config: RunConfig, tmp_path: Path) -> None:
    train_run(replace(light_config, optim=replace(light_config.optim, max_steps=1)), World(), ranks.Recorder(tmp_path))
    with pytest.raises(CheckpointError, match="a checkpoint of unet, not of a style network"):
        load_style_network(str(tmp_path))


def test_the_encoder_may_be_that_of_a_distseg_checkpoint(
    style_config: RunConfig, tiny_config: RunConfig, tmp_path: Path
) -> None:
    same_encoder = model_config(backbone="resnet18")
    short = replace(tiny_config, model=same_encoder, optim=replace(tiny_config.optim, max_steps=1))
    train_run(short, World(), ranks.Recorder(tmp_path))
    found = checkpoint.newest(str(tmp_path))
    assert found is not None
    config = replace(style_config, model=replace(style_config.model, pretrained=found[0]))
    config = replace(config, optim=replace(config.optim, max_steps=1), augment=AugmentConfig(scale=(1.0, 1.0)))
    training = train_run(config, World(), ranks.Recorder())
    assert isinstance(training, StyleTransfer)
    assert isinstance(training, StyleTransfer)
    weight = training.network.backbone.state_dict()["conv1.weight"]
    torch.testing.assert_close(weight, found[1].model["backbone.conv1.weight"].to(weight.dtype))


def test_apply_adds_restyled_copies_with_their_labels(tiny_town: str, network_uri: str, tmp_path: Path) -> None:
    out = str(tmp_path / "restyled")
    options = ["--network", network_uri, "--data", tiny_town, "--out", out, "--num_processes", "1"]
    assert stylize.main(["apply", *options, "--to", "night", "fog", "--conditions", "dawn"]) == 0
    before, after = load_manifest(tiny_town), load_manifest(out)
    assert set(after.conditions("train")) == {*before.conditions("train"), "dawn-as-night", "dawn-as-fog"}
    assert after.conditions("val") == before.conditions("val")
    entries = [(shard, entry) for shard in before.shards for entry in read_index(before, shard).entries]
    originals = {(shard.split, entry.key): read_sample(before, shard, entry) for shard, entry in entries}
    num_copies = 0
    for shard in after.shards:
        for entry in read_index(after, shard).entries:
            files, (key, _, target) = read_sample(after, shard, entry), entry.key.partition("-as-")
            assert files.label == originals[shard.split, key].label
            assert (files.image == originals[shard.split, key].image) == (not target)
            num_copies += bool(target)
    assert num_copies == 2 * sum(s.num_samples for s in before.select("train", ("dawn",)))


@pytest.mark.ray
@pytest.mark.long
def test_apply_writes_the_same_bytes_in_ray_tasks(
    tiny_town: str, network_uri: str, ray_cluster: Mapping[str, str], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    asked = ["apply", "--network", network_uri, "--data", tiny_town, "--to", "night", "--conditions", "dawn"]
    assert stylize.main([*asked, "--out", str(here), "--num_processes", "1"]) == 0
    ended = programs.run(tmp_path, ray_cluster, "distseg.stylize", *asked, "--out", str(there), "--ray")
    assert ended.code == 0, ended.err
    names = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert names == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in names)


def test_show_draws_a_picture(tiny_town: str, network_uri: str, tmp_path: Path) -> None:
    options = ["--network", network_uri, "--data", tiny_town, "--out", str(tmp_path / "sheet.png"), "--rows", "2"]
    assert stylize.main(["show", *options, "--to", "night", "--conditions", "dawn"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 96, 2 * (64 + 14))
