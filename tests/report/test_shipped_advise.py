"""The shipped files of AdViSe: every step can be used as it stands, and they run on stores that are not theirs."""

import numpy as np
import pytest

from featcache.commands.registry import load, settings_class
from featcache.commands.steps import parse_steps, pipeline_steps
from featcache.config import parse, read_mapping, to_dict
from featcache.data.importers import DATASETS
from featcache.data.sampling import sample_rows
from featcache.data.types import Timeline
from featcache.extract.presets import with_preset
from featcache.extract.settings import ExtractSettings
from featcache.methods.advise.cost import counts_of
from featcache.methods.advise.settings import AdviseCostSettings, AdviseSettings, R3d50Settings, TmmFineTuneSettings
from featcache.methods.finetune.settings import FinetuneSettings
from featcache.networks.settings import PRESETS
from tests.report.advise_files import EXTRACTIONS, PIPELINES, SWEEPS, every_step, named, rows_of

TABLES = [path for path in SWEEPS if path.stem.startswith("table")]
COSTS = [path for path in TABLES if path.stem[5] in "2367"]
PER_PAPER = {"UCF101": "stores/ucf101", "HMDB51": "stores/hmdb51", "Diving48": "stores/diving48"}


def test_there_is_a_file_for_every_table_and_figure():
    assert {path.stem.partition("_")[0] for path in TABLES} == {f"table{number}" for number in range(1, 9)}
    assert {path.stem.partition("_")[0] for path in SWEEPS} >= {"fig1", "fig4", "fig6"}
    assert {path.stem for path in COSTS} == {
        "table2_sfu_cost", "table3_width_depth", "table6_cost", "table7_ifm_time",
    }  # fmt: skip


@pytest.mark.parametrize("path", SWEEPS + PIPELINES, ids=lambda path: path.stem)
def test_every_step_of_every_row_has_the_paper_s_setting(path):
    is_k400, is_released = path.stem == "table8_k400", path.stem == "modules_released"
    for step in every_step(path):
        if isinstance(step, AdviseSettings):
            default = AdviseSettings(bank=step.bank)
            changed = {"num_clips": 1} if is_k400 else {"sequential": False} if is_released else {}
            assert step.clips == default.clips.model_copy(update=changed)
            assert step.training.optimiser == default.training.optimiser
            assert step.training.batch_size == default.training.batch_size
            assert step.training.schedule.warmup_fraction * step.training.epochs == 5
            assert step.tmm.temporal_kernel == 1
        if isinstance(step, TmmFineTuneSettings):
            default = TmmFineTuneSettings(bank=step.bank)
            assert step.training.optimiser == default.training.optimiser
            spread = step.bank.store in ("stores/diving48", "stores/ssv2")
            assert (step.sampler, step.num_clips) == (("spread", 4) if spread else ("random", 1))
            assert step.training.epochs == (100 if spread else 50)
            assert step.test_clips == (2 if step.bank.store == "stores/ssv2" else 10)
            assert step.speed_jitter == (0.2 if is_released else 0.0)
        if isinstance(step, R3d50Settings):
            default = R3d50Settings(source="videos")
            assert (step.clips, step.training.optimiser) == (default.clips, default.training.optimiser)
            assert step.training.schedule == default.training.schedule


def test_sizes_are_those_of_the_presets():
    def modules(name):
        kinds = (AdviseSettings, AdviseCostSettings)
        return [step.tmm for step in every_step(named(name)) if isinstance(step, kinds)]

    for name in ("table4_ifm", "table5_average_pooling", "table8_ucf101", "table8_k400", "ucf101_clip-l14"):
        assert set(modules(name)) == {PRESETS["release"]}
    for name in ("table1_channels_epochs", "table2_sfu_cost", "fig4_resolution"):
        assert set(modules(name)) == {PRESETS["ablation-2048"]}
    assert modules("fig6_depth")[0] == modules("table3_width_depth")[1] == PRESETS["ablation-256"]
    small, large = PRESETS["ablation-256"], PRESETS["ablation-2048"]
    assert modules("table6_cost")[:3] == [small, small, large]
    assert modules("modules_released") == [
        PRESETS[name] for name in ("release", "release-conv3d", "release-swin", "release-transformer")
    ]


@pytest.mark.parametrize("path", COSTS, ids=lambda path: path.stem)
def test_cost_tables_train_no_epoch_and_need_no_store(path):
    for step in every_step(path):
        assert isinstance(step, AdviseCostSettings)
        assert step.num_steps == (0 if path.stem[5] in "23" else 10)
        if path.stem[5] == "6":
            assert (step.batch_size, step.clips.num_clips, step.clips.sequential) == (8, 4, True)
            assert (step.backbone is None) == (step.network == "r3d50")
        if path.stem[5] == "7":
            assert (step.network, step.batch_size, step.clips.num_clips) == ("backbone", 1, 1)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_cell_measures_what_its_row_and_column_name(path):
    """Pre-training is never on the data set that is transferred to, and a Delta is of the pre-training it names."""
    settings = load(path)
    for row, steps in rows_of(path):
        by_folder = {step.out: step for step in steps}
        pretraining = [step for step in steps if isinstance(step, AdviseSettings)]
        assert {step.bank.store for step in pretraining} <= {"stores/k400" if "k400" in path.stem else "stores/ucf101"}
        for column, place in settings.columns.items():
            number, _, value = place.partition(".")
            step = steps[int(number)]
            if value.startswith("cost."):
                continue
            if isinstance(step, FinetuneSettings):
                assert step.weights.startswith(steps[1].out)
                continue
            assert isinstance(step, TmmFineTuneSettings)
            assert value.startswith(("metrics.", "delta."))
            data = column.partition(",")[0]
            wanted = PER_PAPER.get(data, f"stores/{path.stem.removeprefix('transfer_')}")
            assert step.bank.store == (wanted if data in PER_PAPER or "transfer" in path.stem else "stores/ucf101")
            is_average = column.endswith("average")
            assert is_average == (step.init is None)
            if is_average:
                assert (step.tmm.kind, step.tmm.head_hidden) == ("skip", 1024)
            else:
                init = by_folder[step.init]
                assert isinstance(init, AdviseSettings)
                assert (init.bank.feature, init.bank.channels) == (step.bank.feature, step.bank.channels)
                assert init.bank.grid == step.bank.grid
                if "epochs" in column:
                    assert str(init.training.epochs) in column
            if "Delta" in column or "scratch" in column:
                assert step.compare_scratch
            assert ("Delta" in column) == value.startswith("delta.")
            assert ("scratch" in column) == value.startswith("metrics.scratch.")
            assert step.frozen == (column == "linear probe")
        varied(path.stem, row, pretraining)


def varied(name, row, pretraining):
    """Check what a row's name says of its pre-training."""
    for step in pretraining:
        bank, tmm = step.bank, step.tmm
        said = {
            "table1_channels_epochs": f"{bank.channels or 768} channels",
            "fig4_resolution": f"{bank.grid or 14} x {bank.grid or 14}",
            "fig6_width": f"hidden {tmm.hidden}",
            "fig6_depth": f"{tmm.num_blocks} block{'s' * (tmm.num_blocks > 1)}",
            "modules_released": tmm.kind,
        }
        assert row.name == said.get(name, row.name)
        if name.startswith(("table4", "table5", "table8", "transfer")):
            models = row.name.lower().replace("/", "").replace(" + ", "+").removeprefix("k400: advise ")
            models = models.removeprefix("ucf101: advise ").replace(", 112 pixels", "-112")
            assert bank.feature == models


@pytest.mark.parametrize("path", EXTRACTIONS, ids=lambda path: path.stem)
def test_one_extraction_a_data_set_gives_what_its_tables_read(path):
    extraction = load(path)
    DATASETS.load(extraction.dataset)
    steps = [step for sweep in SWEEPS for step in every_step(sweep)]
    banks = [step.bank for step in steps if isinstance(step, AdviseSettings | TmmFineTuneSettings)]
    read = {name for bank in banks if bank.store == extraction.out for name in bank.feature.split("+")}
    assert read == {feature.name for feature in extraction.features}
    for feature in extraction.features:
        check_feature(feature, grid=7 if "k400" in path.stem else None)
    if "k400" not in path.stem:
        assert read_mapping(path)["sampling"] == with_preset("advise", {"features": []})["sampling"]


def check_feature(feature, *, grid=None):
    """The array is by the preset; a name says which model, and whether clips of 112 pixels are enlarged."""
    assert feature.name.removesuffix("-112") == feature.backbone
    size = (112, 2) if feature.name.endswith("-112") else (224, None)
    assert (feature.input_size, feature.enlarge, feature.grid) == (*size, grid)
    given = {"backbone": feature.backbone, "name": feature.name, "input_size": size[0], "enlarge": size[1]}
    given |= {} if grid is None else {"grid": grid, "precision": "int8"}
    preset = with_preset("advise", {"features": [given], "source": "videos", "out": "s"})
    assert parse(ExtractSettings, preset).features == (feature,)
    assert feature.compute == "bfloat16"


def test_every_store_that_a_sweep_reads_is_extracted():
    made = {load(path).out for path in EXTRACTIONS}
    steps = [step for sweep in SWEEPS for step in every_step(sweep)]
    assert {step.bank.store for step in steps if isinstance(step, AdviseSettings | TmmFineTuneSettings)} == made


def test_the_window_of_kinetics_is_the_longest_clip_of_the_pretext():
    extraction = load(named("k400_extract"))
    sampling = extraction.sampling.resolve(num_frames=1, frame_stride=1, crop_fraction=1.0)
    clips = AdviseSettings(bank={"store": "s"}).clips
    longest = clips.num_frames * clips.base_stride * max(clips.rates) * (1 + clips.speed_jitter)
    for fps in (25, 30, 29.97, 50):
        times = np.arange(round(10 * fps)) / fps
        timeline = Timeline(pts_seconds=times, duration_seconds=10.0, height=256, width=340)
        rows = sample_rows(sampling.for_split("train"), timeline, "a")
        assert len(rows) == np.ceil(longest) == 154
    (feature,) = (feature for feature in extraction.features if feature.name == "clip-b16")
    assert 240_000 * 154 * feature.grid**2 * 768 == pytest.approx(1.4e12, rel=0.01)
    assert feature.precision == "int8"


def test_rows_that_share_a_folder_share_its_settings():
    by_folder = {}
    for path in SWEEPS:
        for step in every_step(path):
            by_folder.setdefault(step.out, []).append(step)
    for path in PIPELINES:
        for step in every_step(path):
            if isinstance(step, AdviseSettings):
                by_folder.setdefault(step.out, []).append(step)
    shared = {folder: steps for folder, steps in by_folder.items() if len(steps) > 1}
    for folder, steps in shared.items():
        assert all(step == steps[0] for step in steps), folder
    pretrainings = [step for steps in shared.values() for step in steps if isinstance(step, AdviseSettings)]
    assert {step.out.removeprefix("runs/advise/") for step in pretrainings} == {
        "ablation-256/pretext", "ablation-2048/pretext", "ucf101_clip-b16/pretext", "ucf101_clip-l14/pretext",
        "ucf101_mae-l16/pretext", "ucf101_dinov2-l14/pretext",
    }  # fmt: skip


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_pipelines_extract_by_the_preset_pre_train_on_ucf101_and_transfer(path):
    *extractions, advise, tmm = every_step(path)
    target, _, name = path.stem.partition("_")
    assert [extraction.dataset for extraction in extractions] == list(dict.fromkeys(["ucf101", target]))
    for extraction, step in zip(extractions, load(path).steps, strict=False):
        assert extraction.out == f"stores/{extraction.dataset}"
        assert step["sampling"] == with_preset("advise", {"features": []})["sampling"]
        (feature,) = extraction.features
        assert feature.name == name
        check_feature(feature)
    assert (advise.bank.store, tmm.bank.store) == ("stores/ucf101", f"stores/{target}")
    assert advise.bank.feature == tmm.bank.feature == name
    assert tmm.init == advise.out == f"runs/advise/ucf101_{name}/pretext"
    assert tmm.compare_scratch


def test_the_yaml_of_the_whole_way_is_complete():
    path = named("motion")
    assert to_dict(load(path)) == read_mapping(path) == to_dict(settings_class("advise")())


def test_a_store_given_once_is_that_of_every_step():
    settings = load(named("ucf101_clip-l14"), assignments=["store=mine", "feature=map", "steps.2.bank.store=other"])
    extraction, advise, tmm = parse_steps(pipeline_steps(settings))
    assert extraction.out == advise.bank.store == "mine"
    assert tmm.bank.store == "other"
    assert advise.bank.feature == tmm.bank.feature == "map"
    assert tmm.init == advise.out


# What the paper misprints, by (table, row, column); its YAML says so in a note.
MISPRINTS = {
    ("table6_cost", "A-B/16-256", "MACs (G)"),
    ("table6_cost", "A-L/14-256", "MACs (G)"),
    ("table6_cost", "A-L/14-256", "parameters (M)"),
    ("table6_cost", "R3D-50", "MACs (G)"),
    ("table6_cost", "R3D-50", "parameters (M)"),
}
MAPS = {"clip-b16": (14, 14, 768), "clip-l14": (16, 16, 1024)}


@pytest.mark.parametrize("name", ["table2_sfu_cost", "table3_width_depth", "table6_cost"])
def test_counts_are_those_that_were_printed(name):
    places = {column: place.partition(".cost.")[2] for column, place in load(named(name)).columns.items()}
    for row, (step,) in rows_of(named(name)):
        assert row.published
        counted = step.model_copy(update={"shape": MAPS.get(step.backbone, step.shape), "backbone": None})
        cost = counts_of(counted, None)
        for column, printed in row.published.items():
            if places[column] not in cost:
                continue
            decimals = 0.051 if name == "table6_cost" else 0.0101  # the prints have one, or two
            is_printed = cost[places[column]] == pytest.approx(printed, rel=0.002, abs=decimals)
            assert is_printed == ((name, row.name, column) not in MISPRINTS), (row.name, column, cost)
            assert is_printed or row.note
