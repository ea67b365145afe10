"""The figures of the studies that the pages tell are those that lie beside them."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METRICS = ("coco/bbox_mAP", "mIoU")
TOLD = {  # run@budget, what its page says
    ("bccd", "bccd/README.md"): {
        "dense-64": "0.528",
        "routed-64": "0.521",
        "routed-64@1.0": "0.534",
        "small-64": "0.462",
    },
    ("camvid", "camvid/README.md"): {"dense-32-on": "60.2", "routed-32": "60.0", "random-32": "58.1"},
    ("deeppcb", "deeppcb/README.md"): {"dense-40": "0.395", "dense-40-on": "0.392", "small-64": "0.354"},
    ("scenes", "demo/README.md"): {"routed-det-more": "0.524", "dense-det-more": "0.536", "random-det": "0.353"},
    ("published", "published/README.md"): {
        "dense": "0.654",
        "routed": "0.650",
        "routed@0.33": "0.641",
        "routed@1.0": "0.654",
        "smaller": "0.054",
        "smaller-on": "0.489",
        "narrow": "0.605",
        "less": "0.622",
    },
    ("resnet", "demo/README.md"): {
        "dense-scenes-on": "0.685",
        "routed-scenes": "0.664",
        "routed-scenes@0.8": "0.677",
        "routed-scenes@1.0": "0.679",
        "random-scenes": "0.532",
    },
    ("resnet", "boards/README.md"): {
        "dense-boards-on": "0.623",
        "routed-boards": "0.606",
        "routed-boards@0.8": "0.622",
        "routed-boards@1.0": "0.619",
        "random-boards": "0.163",
    },
    ("boards", "boards/README.md"): {
        "routed-128": "0.635",
        "dense-128-more": "0.666",
        "routed-80": "0.574",
        "dense-64-more": "0.607",
    },
}


@pytest.mark.parametrize("study, page", TOLD, ids=lambda name: name)
def test_pages_tell_what_came_out(study, page):
    results = json.loads((ROOT / "docs/studies" / f"{study}.json").read_text())
    text = (ROOT / "configs" / page).read_text()
    for run, told in TOLD[study, page].items():
        name, _, at = run.partition("@")
        found = results[name][at or "own"]
        value = next(found[metric] for metric in METRICS if metric in found)
        assert f"{value:.{len(told.partition('.')[2])}f}" == told, run
        assert told in text, run


@pytest.mark.parametrize("file", sorted((ROOT / "docs/studies").glob("*_times.json")), ids=lambda file: file.stem)
def test_times_say_of_which_study_they_are(file):
    study = json.loads(file.read_text())["setup"]["study"].partition(",")[0]
    assert not Path(study).is_absolute() and (ROOT / study).is_file()
