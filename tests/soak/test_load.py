"""Many clients at once: each gets what it would get alone, and memory stays what it was."""

import io
import json
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scenes import ROOT
from served import AS_THEY_ARE, CONFIG, WEIGHTS, Memory, Served, draw_boards, over_http, served_with, trimmed

from mmsparse.apis import budget, get_keep_ratio
from mmsparse.calls import prepare_batch
from mmsparse.cli.building import build_model
from mmsparse.cli.inferring import inferencer_of
from mmsparse.cli.viewing import reader_of
from mmsparse.configs import read_config
from mmsparse.deploy import Wish, export, serve
from mmsparse.deploy.artifact import Artifact
from mmsparse.deploy.formats import Run

pytestmark = pytest.mark.soak
BUDGETS = (None, 0.2, 0.5, 1.0)  # None: the config's
SIZES = ((160, 160), (160, 224), (192, 192), (200, 250), (224, 224), (256, 256), (250, 310), (320, 320))
SIDE = 256  # of what is exported
CLIENTS = 8
# What is in use may grow by this of a request, of whose maps and pictures the smallest has 77 kB. What is resident
# grows by what lies between, too, of which trimming gives back whole pages alone.
LEAK, APART = 16e3, 0.05
Ask = Callable[[int], Any]  # the number of a job, to its result


class Done(NamedTuple):
    """What came of many requests."""

    differing: int
    kept: float  # bytes in use after each request of the last half, which were not before
    share: float  # by which resident memory grew over it
    figures: dict[str, float]


def under_load(asks: Sequence[Ask], alone: Sequence[Any], requests: int, memory: Callable[[], Memory]) -> Done:
    """Let each client ask for jobs at random, and compare with what was found alone."""
    chance = random.Random(0)
    jobs = [chance.randrange(len(alone)) for _ in range(requests)]
    half, seen = requests // 2, []

    def client(ask: Ask, mine: Sequence[int]) -> list[tuple[float, bool]]:
        found = []
        for job in mine:
            begun = time.perf_counter()
            result = ask(job)
            found.append((time.perf_counter() - begun, result == alone[job]))
        return found

    with ThreadPoolExecutor(len(asks)) as pool:
        done, seconds = [], 0.0
        for part in (jobs[:half], jobs[half:]):
            begun = time.perf_counter()
            shares = [part[number :: len(asks)] for number in range(len(asks))]
            done += [one for share in pool.map(client, asks, shares) for one in share]
            seconds += time.perf_counter() - begun
            seen.append(memory())
    assert len(done) == requests
    p50, p95, p99 = (round(float(ms), 1) for ms in np.percentile([1e3 * taken for taken, _ in done], (50, 95, 99)))
    differing, (middle, end) = sum(not same for _, same in done), seen
    figures = dict(
        requests=requests, clients=len(asks), jobs=len(alone), differing=differing, p50_ms=p50, p95_ms=p95, p99_ms=p99,
        per_second=round(requests / seconds, 2), of_requests=requests - half,
        resident_mb=round(end.resident / 1e6, 1), resident_grew_mb=round((end.resident - middle.resident) / 1e6, 2),
        used_mb=round(end.used / 1e6, 1), used_grew_mb=round((end.used - middle.used) / 1e6, 2),
    )  # fmt: skip
    kept = (end.used - middle.used) / (requests - half)
    return Done(differing, kept, end.resident / middle.resident - 1, figures)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Boards, most of them cut to sizes that are padded."""
    return draw_boards(tmp_path_factory.mktemp("boards"), SIZES)


@pytest.fixture(scope="module")
def cfg():
    return read_config(CONFIG, AS_THEY_ARE)


def test_threads_that_share_a_network(cfg, pictures, figures):
    """By what ``mmsparse predict`` calls, each request with a budget of its own."""
    model = build_model(cfg, WEIGHTS)
    infer, before = inferencer_of(model, cfg, 0.3), get_keep_ratio(model)
    jobs = [(str(path), ratio) for path in pictures for ratio in BUDGETS]

    def ask(job: int) -> bytes:
        path, ratio = jobs[job]
        with nullcontext() if ratio is None else budget(ratio, model):
            return infer([path], False)[0].content

    alone = [ask(job) for job in range(len(jobs))]
    assert len(set(alone)) == len(jobs) and all(len(json.loads(found)["bboxes"]) >= 3 for found in alone)
    done = under_load([ask] * CLIENTS, alone, 2000, trimmed)
    figures["threads"] = done.figures
    assert done.differing == 0 and get_keep_ratio(model) == before
    assert done.kept < LEAK and done.share < APART


@pytest.fixture
def served(pictures, tmp_path) -> Iterator[Served]:
    """``mmsparse app`` with half of the pictures to choose from."""
    with served_with(pictures[::2], tmp_path) as served:
        yield served


def test_clients_of_the_app(served, pictures, figures):
    """Half of the pictures are sent, half are chosen from the list."""
    from gradio_client import Client, handle_file

    jobs = [(number, ratio) for number in range(len(pictures)) for ratio in BUDGETS]

    def asker() -> Ask:
        client = Client(served.url, verbose=False)

        def ask(job: int) -> str:
            number, ratio = jobs[job]
            path = pictures[number]
            given = (handle_file(str(path)), None) if number % 2 else (None, path.stem)
            return client.predict(*given, ratio is None, ratio or 0.5, api_name="/show")

        return ask

    asks = [asker() for _ in range(CLIENTS)]
    alone = [asks[0](job) for job in range(len(jobs))]
    assert len(set(alone)) == len(jobs) and all("of the arithmetic" in page for page in alone)
    done = under_load(asks, alone, 400, lambda: served.memory(lambda: asks[0](0)))
    figures["app"] = done.figures
    assert done.differing == 0
    assert done.kept < LEAK and done.share < APART
    assert "Traceback" not in served.log.read_text()


def png(width: int, height: int) -> bytes:
    """Of one colour, so that many pixels are few bytes."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "png")
    return file.getvalue()


def says_that_it_is(content: bytes, width: int, height: int) -> bytes:
    """A PNG with another size in its header."""
    head = content[12:16] + width.to_bytes(4) + height.to_bytes(4) + content[24:29]
    return content[:12] + head + zlib.crc32(head).to_bytes(4) + content[33:]


def test_a_thousand_requests_at_once_and_hostile_ones_among_them(served, pictures, figures):
    """All of them wait before the first answer is fetched."""
    send, ask, answer = over_http(served)
    small = cv2.imencode(".png", cv2.imread(str(pictures[0]))[:64, :64])[1].tobytes()
    own, listed = send("own.png", small), pictures[0].stem
    many, none = "has more than 16 million pixels (--max-pixels)", "cannot be read as a picture"
    good = [*((own, None, ratio) for ratio in (0.1, 0.5, 1.0)), (None, listed, 0.3)]
    alone = [answer(ask(*job)) for job in good]
    assert len(set(alone)) == len(good) and all("of the arithmetic" in page for page in alone)

    def sent(name: str, content: bytes) -> tuple[str, None, float]:
        return send(name, content), None, 0.5

    dot = png(8, 8)
    hostile = {
        sent("bomb.png", says_that_it_is(dot, 65000, 65000)): f"<p>bomb.png {many}</p>",
        sent("black.png", png(12000, 12000)): f"<p>black.png {many}</p>",  # which it has, in 18 kB
        sent("less.png", says_that_it_is(dot, 3900, 4100)): f"<p>less.png {none}</p>",
        sent("&lt;i&gt;.png", b"none"): f"<p>&amp;lt;i&amp;gt;.png {none}</p>",
        (None, f"../{listed}", 0.5): f"Value: ../{listed} is not in the list of choices",
        (None, listed, 0.0): "Value 0.0 is less than minimum value 0.1.",
        (None, listed, 1e300): "Value 1e+300 is greater than maximum value 1.0.",
    }
    renamed = {"../../../over.png": "over.png", "..\\..\\over.png": "....over.png", f"{'x' * 999}.png": "x" * 100}
    for name, shown in renamed.items():
        path = Path(send(name, small))
        assert path.is_relative_to(served.folder / "gradio") and path.name.startswith(shown)
        assert answer(ask(str(path), None, 0.5)) == alone[1].replace("own.png", path.name)
    written = [*served.folder.parent.rglob("*.png")]
    assert len(written) >= 8 and all(path.is_relative_to(served.folder / "gradio") for path in written)

    served.forget_peak()
    most = served.peak()
    assert all(answer(ask(*job)).startswith(told) for job, told in hostile.items())
    most = served.peak() - most

    chance = random.Random(0)
    jobs = [chance.choice(list(hostile)) if number % 10 == 9 else chance.choice(good) for number in range(1000)]
    expected = dict(zip(good, alone, strict=True)) | hostile

    def held() -> Memory:
        return served.memory(lambda: answer(ask(*good[0])))

    def burst() -> list[str]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(answer, list(pool.map(lambda job: ask(*job), jobs))))

    # The first makes the allocators' pools as large as a thousand waiting requests need; the second finds them so.
    at_first, begun = held(), time.perf_counter()
    told = burst()
    seconds, before = time.perf_counter() - begun, held()
    told += burst()
    after = held()
    differing = [job for job, page in zip(jobs * 2, told, strict=True) if not page.startswith(expected[job])]
    figures["at once"] = dict(
        requests=len(told), hostile=sum(job in hostile for job in jobs * 2), differing=len(differing),
        per_second=round(len(jobs) / seconds, 2), hostile_peak_mb=round(most / 1e6, 1),
        first_resident_grew_mb=round((before.resident - at_first.resident) / 1e6, 2),
        resident_mb=round(after.resident / 1e6, 1), resident_grew_mb=round((after.resident - before.resident) / 1e6, 2),
        used_mb=round(after.used / 1e6, 1), used_grew_mb=round((after.used - before.used) / 1e6, 2),
    )  # fmt: skip
    assert not differing
    assert all("\n" not in page for job, page in zip(jobs * 2, told, strict=True) if job in hostile)
    assert [answer(ask(*job)) for job in good] == alone
    assert most < 12000**2  # the black picture was never made, of which a byte a pixel would be this
    assert max(after.used - before.used, before.used - at_first.used) < LEAK * len(jobs)
    assert f'"{ROOT}/mmsparse' not in served.log.read_text()


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def exported(request, cfg, tmp_path_factory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("exported") / request.param
    return export(build_model(cfg, WEIGHTS), Wish(request.param, [(SIDE, SIDE)]), folder), folder


def runs_of(artifact: Artifact, folder: Path) -> list[Run]:
    """One network for all clients: of OpenVINO each has a request of its own."""
    size = (SIDE, SIDE)
    if artifact.format == "onnx":
        return [artifact.load(folder, size, threads=1)] * CLIENTS
    import openvino

    settings = dict(PERFORMANCE_HINT="THROUGHPUT", INFERENCE_PRECISION_HINT="f32", INFERENCE_NUM_THREADS=2)
    (entry,) = artifact.files.values()
    compiled = openvino.Core().compile_model(folder / entry["name"], "CPU", settings)

    def run_of(request: Any) -> Run:
        return lambda inputs: [
            torch.from_numpy(array.copy()) for array in request.infer([x.numpy() for x in inputs]).values()
        ]

    return [run_of(compiled.create_infer_request()) for _ in range(CLIENTS)]


def test_requests_of_an_exported_network(exported, cfg, pictures, figures):
    """Its raw results."""
    artifact, folder = exported
    model, read, calls = build_model(cfg, WEIGHTS), reader_of(cfg), []
    for path in pictures:
        picture = read(path)
        size = picture["data_samples"].img_shape
        if max(size) <= SIDE:
            inputs = prepare_batch(model, [picture])["inputs"]
            filled = F.pad(inputs, (0, SIDE - inputs.shape[-1], 0, SIDE - inputs.shape[-2])).contiguous()
            calls.append([filled, torch.tensor([size])])
    assert len(calls) >= 4

    def ask_of(run: Run) -> Ask:
        return lambda job: b"".join(result.numpy().tobytes() for result in run(calls[job]))

    asks = [ask_of(run) for run in runs_of(artifact, folder)]
    alone = [asks[0](job) for job in range(len(calls))]
    assert len(set(alone)) == len(calls)
    done = under_load(asks, alone, 2000, trimmed)
    figures[f"requests of {artifact.format}"] = done.figures
    assert done.differing == 0
    assert done.kept < LEAK and done.share < APART


def test_threads_that_share_a_served_network(exported, cfg, pictures, figures):
    """In a model's place, its boxes."""
    artifact, folder = exported
    model = build_model(cfg, WEIGHTS)
    serve(model, folder, threads=1)
    infer = inferencer_of(model, cfg, 0.3)
    small = [str(path) for path, size in zip(pictures, SIZES, strict=True) if max(size) <= SIDE]

    def ask(job: int) -> bytes:
        return infer([small[job]], False)[0].content

    alone = [ask(job) for job in range(len(small))]
    assert len(set(alone)) == len(small)
    done = under_load([ask] * CLIENTS, alone, 400, trimmed)
    figures[f"threads, served by {artifact.format}"] = done.figures
    assert done.differing == 0
    assert done.kept < LEAK and done.share < APART
