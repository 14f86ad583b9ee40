"""What the page is told: the library's own maps, layers, classes and pictures; and what is refused."""

from __future__ import annotations

import base64
import io
import json
import pickle
import shlex
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import camkit
from camkit.explore import telling
from camkit.explore.guard import HEADER, MOST_ASKED
from camkit.explore.pictures import MOST_BYTES
from camkit.explore.queue import MOST_WAITING, Job, Queue
from camkit.methods import METHODS
from camkit.visualize.save import load_raw
from tests.datasets.pictures import CLASSES, _bomb, classifier, write_pictures
from tests.explore.serving import FIRST, Client, served, tiny, until


def floats(told: dict[str, Any], name: str = "maps") -> Any:
    """The maps of an answer, (T, H, W)."""
    flat = np.frombuffer(base64.b64decode(told[name]), dtype="<f4")
    return torch.from_numpy(flat.copy()).view(told["count"], told["height"], told["width"])


def file(told: dict[str, Any]) -> bytes:
    """The file of an answer."""
    return base64.b64decode(told["file"])


class TestAnswers:
    """They are what the library says."""

    def test_about(self, page: Client) -> None:
        told = page.get("/api/about").told
        assert [each["name"] for each in told["sources"]["a"]["methods"]] == list(METHODS)
        assert len(base64.b64decode(told["colormaps"]["jet"])) == 256 * 3

    def test_classes_come_with_probabilities_the_highest_first(self, page: Client, pictures: Path) -> None:
        told = page.ask("look")
        network = classifier()
        prepared = network.prepare(pictures / "000.png")
        chances = network.model(prepared.inputs)[0].detach().softmax(0)
        assert [each["index"] for each in told["classes"]] == chances.argsort(descending=True).tolist()
        assert [each["name"] for each in told["classes"]] == [CLASSES[each["index"]] for each in told["classes"]]
        assert told["classes"][0]["probability"] == pytest.approx(float(chances.max()), rel=1e-5)
        seen = np.array(Image.open(io.BytesIO(base64.b64decode(told["picture"]))))
        assert np.array_equal(seen, prepared.picture)

    @pytest.mark.parametrize("method", ["GradCAM", "EigenCAM", "ScoreCAM", "GuidedGradCAM", "DFF"])
    def test_maps_are_the_librarys_to_the_bit(self, page: Client, pictures: Path, method: str) -> None:
        told = page.ask("map", method=method, category=3, layers=["norm1"], signed=True)
        network = classifier()
        inputs = network.prepare(pictures / "000.png").inputs
        expected = camkit.CAM(network.model, method, ["norm1"]).explain(inputs, [[3]])
        assert torch.equal(floats(told), expected.maps[0])
        raw = expected.raw["norm1"]
        signed = torch.nn.functional.interpolate(raw, inputs.shape[2:], mode="bilinear", align_corners=False)
        assert torch.equal(floats(told, "signed"), signed[0])

    def test_smoothing_and_default_layers(self, page: Client, pictures: Path) -> None:
        told = page.ask("map", eigen_smooth=True, aug_smooth=True)
        network = classifier()
        cam = camkit.AugSmooth(camkit.EigenSmooth(camkit.GradCAM(network.model)))
        expected = cam.explain(network.prepare(pictures / "000.png").inputs)
        assert torch.equal(floats(told), expected.maps[0])
        assert told["layers"] == ["norm2"]

    def test_a_second_time_a_map_is_remembered(self, page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        first = page.ask("map", category=2)
        monkeypatch.setattr("camkit.explore.live.explain", lambda *_, **__: pytest.fail("explained again"))
        assert page.ask("map", category=2)["maps"] == first["maps"]

    def test_layers_with_grids_and_whether_they_are_live(self, page: Client) -> None:
        told = page.ask("layers")
        assert [(each["name"], each["grid"], each["live"]) for each in told["layers"]] == [
            ("norm1", [16, 16], True),
            ("norm2", [16, 16], True),
        ]
        assert told["default"] == "norm2"
        assert {"conv1", "conv2", "norm1", "norm2"} <= {
            each["name"] for each in page.ask("layers", whole=True)["layers"]
        }

    def test_classes_by_name(self, page: Client) -> None:
        assert page.post("/api/category", {"source": "a", "text": "Espresso"}).told == {"index": 2, "name": "espresso"}
        assert "no class 'sofa'" in page.post("/api/category", {"source": "a", "text": "sofa"}).told["error"]
        assert "outside 0..4" in page.post("/api/category", {"source": "a", "text": "5"}).told["error"]

    def test_a_place_speaks_for_classes_that_lose_without_it(self, page: Client, pictures: Path) -> None:
        told = page.ask("place", x=0.55, y=0.2, layers=["norm1"], category=0)
        network = classifier()
        inputs = network.prepare(pictures / "000.png").inputs

        def emptied(module: Any, given: Any, output: Any) -> Any:
            output = output.clone()
            output[:, :, 3, 8] = 0
            return output

        with torch.no_grad():
            whole = network.model(inputs)[0]
            handle = network.model.norm1.register_forward_hook(emptied)
            lost = whole - network.model(inputs)[0]
            handle.remove()
        assert (told["row"], told["column"], told["grid"], told["layer"]) == (3, 8, [16, 16], "norm1")
        assert [each["index"] for each in told["classes"]] == lost.argsort(descending=True).tolist()
        found = torch.tensor([each["lost"] for each in told["classes"]])
        torch.testing.assert_close(found, lost.sort(descending=True).values, rtol=1e-3, atol=1e-5)


class TestFiles:
    """Downloads are what the command writes."""

    def test_picture_and_raw_map_are_the_commands(
        self, page: Client, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from camkit.cli.main import main

        monkeypatch.setattr("camkit.models.load.load", lambda *_, **__: classifier())
        asked = {"method": "LayerCAM", "category": 1, "layers": ["norm1"], "eigen_smooth": True}
        look = {"colormap": "viridis", "alpha": 0.35}
        for original in (False, True):
            styled = {**asked, **look, "original_size": original}
            answer = page.post("/api/command", {"source": "a", "image": FIRST, **styled})
            words = shlex.split(answer.told["command"])
            assert words[:2] == ["camkit", "vis-cam"]
            out, raw = tmp_path / "out.png", tmp_path / "raw.npz"
            assert main([*words[1:-1], str(out), "--save-raw", str(raw)]) == 0
            assert file(page.ask("picture", **styled)) == out.read_bytes()
        (tmp_path / "page.npz").write_bytes(file(page.ask("raw", **asked)))
        maps, told = load_raw(tmp_path / "page.npz")
        expected, by_command = load_raw(raw)
        assert maps.keys() == expected.keys()
        assert all(np.array_equal(maps[name], expected[name]) for name in maps)
        assert told == by_command

    def test_names_are_quoted(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "it's; rm -rf", 1)
        (folder / "000.png").rename(folder / '-$(x) "y".png')
        with served(tiny(folder)) as page:
            image = page.get("/api/images").told["images"][0]["id"]
            told = page.post("/api/command", {"source": "a", "image": image}).told["command"]
        assert shlex.split(told)[2] == str(folder / '-$(x) "y".png')


class TestPictures:
    """Only those given, and what is dropped."""

    def test_the_folders_pictures_are_listed(self, page: Client) -> None:
        told = page.get("/api/images?offset=1&limit=1").told
        assert (told["total"], [each["name"] for each in told["images"]]) == (3, ["001.png"])

    @pytest.mark.parametrize(
        "name",
        [
            "../secret.png",
            "/etc/passwd",
            "..%2fsecret.png",
            "%2e%2e/secret.png",
            "....//secret.png",
            "000.png%00.png",
            "",
        ],
    )
    def test_no_name_leads_out_of_the_folder(self, page: Client, pictures: Path, name: str) -> None:
        Image.new("RGB", (8, 8)).save(pictures.parent / "secret.png")
        assert page.get(f"/api/small?id=given:{name}").status == 404
        assert page.get(f"/web/{name}").status == 404
        assert page.get("/web/..%2fexplore%2fapp.py").status == 404
        assert page.refusal("map", image=f"given:{name}") == "there is no such picture"

    def test_links_that_lead_out_are_not_followed(self, pictures: Path) -> None:
        Image.new("RGB", (8, 8)).save(pictures.parent / "secret.png")
        outside = write_pictures(pictures.parent / "outside", 1)
        (pictures / "link.png").symlink_to(pictures.parent / "secret.png")
        (pictures / "folder").symlink_to(outside)
        (pictures / "circle.png").symlink_to(pictures / "circle.png")
        with served(tiny(pictures)) as page:
            assert page.get("/api/images").told["total"] == 3
            (pictures / "000.png").unlink()
            (pictures / "000.png").symlink_to(pictures.parent / "secret.png")
            assert page.get("/api/small?id=given:000.png").status == 404
            assert "isn't there any more" in page.refusal("look")

    def test_a_picture_that_is_dropped_is_explained_as_its_file_is(self, page: Client, pictures: Path) -> None:
        content = (pictures / "001.png").read_bytes()
        entry = page.post("/api/images?name=C%3A%5Cphotos%5Cmy%20cat.gif", content).told
        assert entry["name"] == "my cat.gif"
        assert page.ask("look", image=entry["id"]) == page.ask("look", image="given:001.png")
        assert page.get(f"/api/small?id={entry['id']}").headers["content-type"] == "image/jpeg"
        assert page.get("/api/images").told["dropped"] == [entry]
        command = page.post("/api/command", {"source": "a", "image": entry["id"]}).told["command"]
        assert shlex.split(command)[2] == "my cat.gif"

    @pytest.mark.parametrize(
        ("content", "status", "message"),
        [
            (b"no picture at all", 415, "x.png is no picture"),
            (b"", 415, "an empty file"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", 415, "is no picture"),
            (
                pickle.dumps(print),
                415,
                "is no picture",
            ),
            (_bomb(10_000, 10_000), 413, "more than 50 million pixels"),
            (_bomb(30_000, 30_000), 413, "more than 50 million pixels"),
        ],
    )
    def test_what_is_no_picture_or_a_bomb_is_refused(
        self, page: Client, content: bytes, status: int, message: str
    ) -> None:
        answer = page.post("/api/images?name=x.png", content)
        assert answer.status == status, answer.body
        assert message in answer.told["error"]
        assert list(page.explorer.album.uploads.folder.iterdir()) == [], "nothing is left"
        assert page.ask("look")["classes"], "others go on"

    def test_a_real_bomb_is_not_decoded(self, page: Client) -> None:
        made = io.BytesIO()
        Image.new("1", (10_000, 10_000)).save(made, "PNG")
        assert len(made.getvalue()) < 100_000
        assert page.post("/api/images?name=bomb.png", made.getvalue()).status == 413

    def test_a_damaged_picture_is_refused(self, page: Client, pictures: Path) -> None:
        content = (pictures / "001.png").read_bytes()
        answer = page.post("/api/images?name=x.png", content[: len(content) // 2])
        assert answer.status == 415
        assert "can't read x.png" in answer.told["error"]

    def test_sixteen_bits_are_shown_small_and_refused_by_name(self, page: Client) -> None:
        made = io.BytesIO()
        Image.fromarray(np.linspace(0, 60_000, 2400).astype(np.uint16).reshape(40, 60)).save(made, "PNG")
        entry = page.post("/api/images?name=deep.png", made.getvalue()).told
        small = np.asarray(Image.open(io.BytesIO(page.get(f"/api/small?id={entry['id']}").body)))
        assert small[:10].mean() < 80 < 180 < small[-10:].mean()
        assert page.refusal("look", image=entry["id"]).startswith("the image deep.png has more than eight bits")

    def test_no_program_runs_for_a_file_in_the_folder(self, page: Client, pictures: Path) -> None:
        (pictures / "001.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
        answer = page.get("/api/small?id=given:001.png")
        assert (answer.status, "is no picture" in answer.told["error"]) == (415, True)

    def test_an_upload_is_bounded_whatever_it_says_of_its_length(self, page: Client) -> None:
        announced = page.request("POST", "/api/images", headers={HEADER: "page", "content-length": str(MOST_BYTES + 1)})
        assert announced.status == 413
        with socket.create_connection(("127.0.0.1", page.port)) as made:
            head = (
                f"POST /api/images HTTP/1.1\r\nHost: localhost\r\n{HEADER}: page\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            made.sendall(head.encode())
            part = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
            try:
                for _ in range((MOST_BYTES >> 20) + 4):
                    made.sendall(part)
                assert b" 413 " in made.recv(200)
            except ConnectionError:
                pass  # it has hung up
        until(lambda: list(page.explorer.album.uploads.folder.iterdir()) == [])

    def test_the_last_pictures_dropped_are_kept_and_all_go_in_the_end(self, pictures: Path) -> None:
        from camkit.explore.album import MOST_UPLOADS

        content = (pictures / "001.png").read_bytes()
        with served(tiny(pictures)) as page:
            entries = [page.post("/api/images?name=x.png", content).told for _ in range(MOST_UPLOADS + 2)]
            folder = page.explorer.album.uploads.folder
            assert len(list(folder.iterdir())) == MOST_UPLOADS
            assert "drop it again" in page.refusal("look", image=entries[0]["id"])
        assert not folder.exists()


class TestCrowds:
    """Many at once, some of whom leave."""

    def test_200_at_once_are_answered_or_told_to_come_back(self, page: Client) -> None:
        def ask(number: int) -> int:
            asked = {"source": "a", "image": f"given:00{number % 3}.png", "category": number % 5}
            answer = page.post("/api/map", asked)
            if answer.status == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert "try again" in answer.told["error"]
            else:
                assert answer.lines[-1]["event"] == "done"
            return answer.status

        with ThreadPoolExecutor(200) as crowd:
            found = list(crowd.map(ask, range(200)))
        assert set(found) <= {200, 503}
        assert found.count(200) >= 1
        assert page.ask("map")["maps"]

    def test_a_full_queue_answers_503_and_the_rest_goes_on(self, page: Client) -> None:
        with ThreadPoolExecutor(MOST_WAITING + 1) as crowd:
            slow: Any = page.explorer.sources["slow"]
            asked = {"source": "slow", "image": FIRST}
            for _ in range(MOST_WAITING + 1):
                crowd.submit(page.request, "POST", "/api/map", json.dumps(asked), _headers(), 10)
            until(lambda: slow.started == 1 and len(page.explorer.queue._waiting) == MOST_WAITING)
            answer = page.post("/api/map", asked)
            assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (503, True)
            assert page.get("/api/small?id=given:000.png").status == 200
            assert page.get("/").status == 200
            page.explorer.queue.close()

    def test_whoever_leaves_ends_the_work(self, page: Client) -> None:
        slow: Any = page.explorer.sources["slow"]
        body = json.dumps({"source": "slow", "image": FIRST}).encode()
        heads = "".join(f"{name}: {value}\r\n" for name, value in _headers().items())
        request = f"POST /api/map HTTP/1.1\r\nHost: localhost\r\n{heads}Content-Length: {len(body)}\r\n\r\n".encode()
        first = socket.create_connection(("127.0.0.1", page.port))
        first.sendall(request + body)
        until(lambda: slow.started == 1)
        second = socket.create_connection(("127.0.0.1", page.port))
        second.sendall(request + body)
        until(lambda: len(page.explorer.queue._waiting) == 1)
        second.close()
        until(lambda: not page.explorer.queue._waiting)
        first.close()
        until(lambda: slow.ended == 1)
        assert page.ask("map")["maps"]
        assert slow.started == 1

    @pytest.mark.parametrize("path", ["/api/images", "/api/map"])
    def test_whoever_leaves_in_the_middle_of_a_request_leaves_no_trace(
        self, page: Client, caplog: pytest.LogCaptureFixture, path: str
    ) -> None:
        heads = f"Host: localhost\r\n{HEADER}: page\r\nContent-Length: 1000\r\n"
        with socket.create_connection(("127.0.0.1", page.port)) as made:
            made.sendall(f"POST {path} HTTP/1.1\r\n{heads}\r\n{{".encode())
            if path == "/api/images":
                until(lambda: page.explorer.uploading == 1)
        until(lambda: page.explorer.uploading == 0)
        assert page.ask("look")["classes"]
        assert list(page.explorer.album.uploads.folder.iterdir()) == []
        assert caplog.records == []

    def test_the_end_of_the_explorer_is_told_to_who_waits(
        self, pictures: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = json.dumps({"source": "slow", "image": FIRST})
        with ThreadPoolExecutor(2) as crowd:
            with served(tiny(pictures)) as page:
                answers = [crowd.submit(page.request, "POST", "/api/map", asked, _headers()) for _ in range(2)]
                until(lambda: len(page.explorer.queue._waiting) == 1)
            last = [each.result().lines[-1] for each in answers]
        assert {each["event"] for each in last} == {"error"}
        assert caplog.records == []

    def test_a_job_that_ends_while_its_state_is_told_is_told_to_its_end(
        self, page: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = telling._state

        def late(queue: Queue, job: Job) -> dict[str, Any]:
            said = state(queue, job)
            job.wait(30)  # whatever was said, the job is done by now
            return said

        monkeypatch.setattr(telling, "_state", late)
        assert page.ask("map")["maps"]

    def test_progress_is_told(self, page: Client) -> None:
        answer = page.post("/api/map", {"source": "a", "image": FIRST, "method": "ScoreCAM", "layers": ["norm1"]})
        events = [each["event"] for each in answer.lines]
        assert events[-1] == "done"
        assert set(events[:-1]) <= {"waiting", "running"}


class TestRefusals:
    """One line each."""

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"method": "GradCan"}, "no method 'GradCan'; closest: GradCAM"),
            ({"category": 7}, "outside"),
            ({"layers": ["nothing"]}, "no layer 'nothing'"),
            ({"layers": ["norm1", "norm1"]}, "given twice"),
            ({"method": "RefineCAM", "layers": ["norm1"]}, "multiplies the maps of several layers"),
            ({"source": "z"}, "there is no such model or run"),
            ({"category": -1}, "category: "),
            ({"layers": ["x"] * 33}, "layers: "),
            ({"unknown": 1}, "unknown: "),
        ],
    )
    def test_of_maps(self, page: Client, asked: dict[str, Any], message: str) -> None:
        assert message in page.refusal("map", **asked)

    def test_of_colours(self, page: Client) -> None:
        assert "no colour map 'jetz'" in page.refusal("picture", colormap="jetz")
        assert "alpha: " in page.refusal("picture", alpha=2)

    @pytest.mark.parametrize("body", [b'{"category": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff\xfe", b"{", b"NaN"])
    def test_of_what_is_no_json(self, page: Client, body: bytes) -> None:
        for what in ("map", "look", "layers", "place", "picture", "raw", "command", "category"):
            answer = page.post(f"/api/{what}", body, **{"content-type": "application/json"})
            assert 400 <= answer.status < 500
            assert list(answer.told) == ["error"]

    def test_of_addresses_that_are_not_there(self, page: Client) -> None:
        for path in ("/nothing", "//etc/passwd", "/api/map"):
            assert list(page.get(path).told) == ["error"]

    @pytest.mark.parametrize("how", ["whole", "in pieces"])
    def test_of_long_requests_before_they_are_in_memory(self, page: Client, how: str) -> None:
        long = json.dumps({"source": "a", "image": FIRST, "layers": ["x" * MOST_ASKED]}).encode()
        body = long if how == "whole" else iter([long[:1000], long[1000:]])
        answer = page.request("POST", "/api/map", body, _headers())
        assert (answer.status, answer.told) == (413, {"error": "a request may have 256 KiB"})

    def test_of_conditions_without_a_run(self, page: Client) -> None:
        assert "start with --run" in page.get("/api/images?where=score%3C1").told["error"]


def _headers() -> dict[str, str]:
    return {HEADER: "page", "content-type": "application/json"}
