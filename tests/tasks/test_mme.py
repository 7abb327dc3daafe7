"""MME against its official script, lmms-eval and VLMEvalKit: every golden answer, every golden number."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from layouts import mme as layout
from layouts.images import write_shards
from score_peers import CASES, lmms_eval

from gapbench.miniature.eye import Eye
from gapbench.records import Failure, InputError, Record
from gapbench.score import score
from gapbench.tasks import mme
from gapbench.tasks.base import Options

# --- Golden -----------------------------------------------------------------------------------------------------------


def test_every_golden_answer_is_read_as_by_each_program(shared) -> None:
    rows = [json.loads(line) for line in (shared / "golden/understanding/yesno_parse.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    for row in rows:
        expected = {
            "official": row["mme_official"],
            "lmms-eval": row["mme_lmms_eval"],
            "vlmevalkit": {"Yes": "yes", "No": "no", "Unknown": "other"}[row["vlmevalkit_yorn"]],
        }
        assert {variant: mme.parse(row["response"], variant) for variant in mme.VARIANTS} == expected, row


def judged(rows: list[dict], variant: str) -> list[Record]:
    seen: dict[str, int] = defaultdict(int)
    records = []
    for row in rows:
        cluster = f"{row['category']}/{row['image']}"
        seen[cluster] += 1
        reference = mme.Reference(
            f"{cluster}/{seen[cluster]}", row["category"], row["image"], "?", row["answer"].lower()
        )
        judgement = mme.judge_answer(reference, row["response"], variant)
        records.append(Record("mme", reference.id, cluster, (), 0, row["response"], judgement.score, judgement.details))
    return records


@pytest.mark.parametrize(
    ("variant", "key", "cognition"),
    [
        ("official", "official", "cognition"),
        ("lmms-eval", "lmms_eval", "cognition"),
        ("vlmevalkit", "vlmevalkit_exact_matching", "reasoning"),
    ],
)
def test_golden_numbers(shared, variant, key, cognition) -> None:
    golden = json.loads((shared / "golden/understanding/mme_synthetic_expected.json").read_text())
    found = mme.metrics(judged(golden["rows"], variant))
    assert next(iter(found)) == "perception"
    assert found["perception"].value == pytest.approx(golden[key]["perception"], abs=1e-9)
    assert found["cognition"].value == pytest.approx(golden[key][cognition], abs=1e-9)
    assert found["perception"].n + found["cognition"].n == len(golden["rows"])
    for subtask, value in golden[key].get("per_subtask", {}).items():
        assert found[subtask].value == pytest.approx(value, abs=1e-9)
        assert found[subtask].value == 100 * found[f"{subtask}/acc"].value + 100 * found[f"{subtask}/acc+"].value
    assert all(e.low <= e.value <= e.high for e in found.values())


# --- Rules ------------------------------------------------------------------------------------------------------------


def test_official_reads_four_characters_as_they_are() -> None:
    said = {text: mme.parse(text) for text in ("  yes", "   no", "  no", "**Yes**", "eyes", "noted", "Y", "", "It is")}
    assert said == {
        "  yes": "other",
        "   no": "other",
        "  no": "no",
        "**Yes**": "other",
        "eyes": "yes",
        "noted": "no",
        "Y": "other",
        "": "other",
        "It is": "other",
    }


def test_prompt_replaces_the_official_request() -> None:
    asked = "Is there a dog in this image? Please answer yes or no."
    assert mme.prompt(asked) == "Is there a dog in this image?\nAnswer the question using a single word or phrase."
    assert mme.prompt(asked.replace(" Please", "  Please")).startswith("Is there a dog in this image? \nAnswer")


def test_a_perfect_and_a_constant_answerer() -> None:
    rows = [
        {"category": subtask, "image": f"{n}.jpg", "answer": answer, "response": answer}
        for subtask in mme.SUBTASKS
        for n in range(3)
        for answer in ("Yes", "No")
    ]
    perfect = mme.metrics(judged(rows, "official"))
    assert (perfect["perception"].value, perfect["cognition"].value) == (2000, 800)
    assert perfect["OCR"].clusters == 3
    constant = mme.metrics(judged([{**row, "response": "Yes"} for row in rows], "official"))
    assert (constant["perception"].value, constant["cognition"].value) == (500, 200)  # acc 0.5, acc+ 0
    # Resampling within subtasks adds nothing; of 30 images that agree, so many at most would not, worth 0 to 200 each.
    others = 1 - 0.025 ** (1 / 30)
    assert constant["perception"].low == pytest.approx(500 - others * 500)
    assert constant["perception"].high == pytest.approx(500 + others * 1500)
    assert (perfect["OCR"].low, perfect["OCR"].high) == (pytest.approx(200 * 0.025 ** (1 / 3)), 200)


def test_absent_subtasks_are_left_out_with_their_sum_and_failures_count_as_wrong() -> None:
    rows = [{"category": "OCR", "image": "a", "answer": answer, "response": "yes"} for answer in ("Yes", "No")]
    records = judged(rows, "official")
    assert set(mme.metrics(records)) == {"OCR", "OCR/acc", "OCR/acc+"}
    failed = mme.judge_answer(mme.Reference("OCR/a/1", "OCR", "a", "?", "yes"), None)
    assert (failed.score, failed.details["said"]) == (0.0, "other")
    with pytest.raises(ValueError, match="no MME records"):
        mme.metrics([])
    with pytest.raises(ValueError, match="no subtask 'color/x'"):
        mme.metrics([Record("mme", "x", "c", (), 0, "", 0.0, {"subtask": "color/x"})])


# --- Saved answers ----------------------------------------------------------------------------------------------------


def official_lines(subtask: str) -> list[list[str]]:
    return [
        [f"{n}.jpg", f"Is this {subtask} {n}, {gold}?  Please answer yes or no.", gold]
        for n in range(mme.IMAGES[subtask])
        for gold in ("Yes", "No")
    ]


LINES = {subtask: official_lines(subtask) for subtask in mme.SUBTASKS}


def write(folder: Path, lines: dict[str, list[list[str]]], end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    for subtask, rows in lines.items():
        (folder / f"{subtask}.txt").write_bytes("".join("\t".join(row) + end for row in rows).encode())
    return folder


def answered(response: str | None = None) -> dict[str, list[list[str]]]:
    return {subtask: [[*row, response or row[2]] for row in rows] for subtask, rows in LINES.items()}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("mme") / "template", LINES)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "answers", answered())


def change(folder: Path, subtask: str, edit) -> Path:
    file = folder / f"{subtask}.txt"
    file.write_text("".join(line + "\n" for line in edit(file.read_text().splitlines())))
    return folder


def refused(message: str, *arguments, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score("mme", *arguments, **options)
    assert "\n" not in str(caught.value)


def test_the_official_counts() -> None:
    assert sum(mme.IMAGES.values()) == 1187
    assert sum(map(len, LINES.values())) == 2374


def test_official_folder_with_and_without_the_template(folder, template, tmp_path) -> None:
    alone, checked = score("mme", folder), score("mme", folder, template)
    assert alone == checked
    assert alone.metrics["perception"].value == 2000
    assert (alone.counts["done"], alone.counts["expected"], alone.partial) == (2374, 2374, False)
    assert alone.records[0].skills == ("object",)
    crlf = score("mme", write(tmp_path / "crlf", answered("Yes, it is"), end="\r\n"))
    assert crlf.metrics["cognition"].value == 200
    others = score("mme", write(tmp_path / "others", answered("maybe")))
    assert (others.metrics["perception"].value, others.counts["unparsed"]) == (0, 2374)


def test_order_and_spacing_of_lines_do_not_matter_with_the_template(folder, template) -> None:
    change(folder, "color", lambda lines: [line.replace("  Please", " Please") for line in reversed(lines)])
    assert score("mme", folder, template).metrics["color"].value == 200


def test_rows_with_ids(template, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("GAPBENCH_DATA", raising=False)
    rows = [
        {"id": f"{subtask}/{row[0]}/{k + 1}", "response": row[2]}
        for subtask, rows in LINES.items()
        for n in range(0, len(rows), 2)
        for k, row in enumerate(rows[n : n + 2])
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score("mme", file, template).metrics["perception"].value == 2000
    refused("Give --data", file)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    refused(r"1 missing \(existence/0.jpg/1\)", file, template)


FAULTS = {
    "missing": (lambda lines: lines[1:], r"1 missing \(OCR/0.jpg/[12]\)", 2373),
    "image": (lambda lines: lines[:-2], r"2 missing \(OCR/(image 20|19.jpg)/1, OCR/(image 20|19.jpg)/2\)", 2372),
    "duplicate": (lambda lines: [*lines, lines[0]], r"1 duplicate \(OCR/0.jpg/1\)", 2374),
    "extra": (lambda lines: [*lines, "0.jpg\tWhat else?\tNo\tno"], r"1 extra \(OCR/0.jpg", 2374),
    "columns": (lambda lines: [*lines[:-1], lines[-1] + "\tno"], r"1 unreadable \(.*OCR.txt:40: 5 columns", 2373),
    "response": (lambda lines: ["\t".join(lines[0].split("\t")[:3]), *lines[1:]], r"OCR.txt:1: no fourth column", 2373),
}


@pytest.mark.parametrize("with_template", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_refused_unless_partial(folder, template, fault, with_template) -> None:
    edit, message, done = FAULTS[fault]
    change(folder, "OCR", edit)
    data = template if with_template else None
    refused(f"of 2374 expected answers .*{message}.*--allow-partial", folder, data)
    scored = score("mme", folder, data, allow_partial=True)
    assert (scored.partial, scored.counts["done"], scored.metrics["OCR"].value) == (True, done, 200)


def test_a_subtask_that_is_not_there(folder, template) -> None:
    (folder / "scene.txt").rename(folder / "Scenes.txt")
    refused(r"400 missing \(scene/image 1/1, .*unreadable \(.*Scenes.txt: not the name of a subtask\)", folder)
    partial = score("mme", folder, template, allow_partial=True)
    assert "perception" not in partial.metrics
    assert partial.metrics["cognition"].value == 800


def test_wrong_files(folder, template, tmp_path) -> None:
    refused("no existence.txt", tmp_path)
    refused("count.txt:3: third column 'maybe' is not the gold", change(folder, "count", with_gold("maybe")))
    refused("count.txt:3: no is not the official gold", change(folder, "count", with_gold("No")), template)
    (folder / "count.txt").write_bytes(b"\xff")
    refused("count.txt: cannot be read as UTF-8", folder)
    cut = change(write(tmp_path / "cut", LINES), "color", lambda lines: lines[2:])
    refused("color.txt: 58 questions on 29 images, the official file has two on each of 30", template, cut)
    refused("none of the 2374 expected answers: 2374 missing", template)


def with_gold(gold: str):
    def edit(lines: list[str]) -> list[str]:
        image, question, _, response = lines[2].split("\t")
        return [*lines[:2], "\t".join((image, question, gold, response)), *lines[3:]]

    return edit


# --- Data -------------------------------------------------------------------------------------------------------------

RELEASE = "MME_Benchmark_release_version"


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    return {"own": layout.write_own(root / "own"), "hub": layout.write_parquet(root / "hub")}


def real(folder: Path, allow_partial: bool = True):
    return mme.real(Options(data=folder, allow_partial=allow_partial))


def refused_data(message: str, folder: Path, allow_partial: bool = True) -> None:
    with pytest.raises(InputError, match=message) as caught:
        real(folder, allow_partial)
    assert "\n" not in str(caught.value)


def test_both_layouts_give_the_same_items(layouts) -> None:
    own, hub = map(real, layouts.values())
    assert {item.id: item for item in own.asked} == {item.id: item for item in hub.asked}
    assert len(own.asked) == len(hub.asked) == 80
    assert own.told == hub.told
    assert own.told["data"].startswith("test 80; rows ")
    assert (own.name, own.whole, own.decoding.max_new_tokens) == ("mme", 2374, 16)
    first = hub.asked[0]
    assert (first.id, first.cluster, first.skills) == (
        "code_reasoning/0001.png/1",
        "code_reasoning/0001.png",
        ("knowledge",),
    )
    assert first.truth == {"gold": "yes", "subtask": "code_reasoning"}
    assert first.ask.text.endswith(" in the image?\nAnswer the question using a single word or phrase.")
    two_spaces = next(item for item in own.asked if item.truth["subtask"] == "color")
    assert two_spaces.ask.text.endswith("image? \nAnswer the question using a single word or phrase.")


@pytest.mark.parametrize("which", ["own", "hub"])
def test_each_question_is_about_its_picture(layouts, which) -> None:
    task = real(layouts[which])
    assert list(task.asked) == list(real(layouts[which]).asked)
    clusters = [item.cluster for item in task.asked]
    assert clusters[::2] == clusters[1::2]
    assert len(set(clusters)) == 40
    answers = list(Eye().answer([item.ask for item in task.asked], task.decoding))
    assert [judged.score for judged in task.judge(task.asked, answers)] == [1.0] * 80
    failed = task.judge_item(task.asked[0], Failure("out of memory"))
    assert (failed.score, failed.details) == (0.0, {"said": "other", **task.asked[0].truth})


@pytest.mark.parametrize("inner", ["", RELEASE, f"{RELEASE}/MME_Benchmark", "MME_Benchmark"])
def test_the_release_is_found_where_its_archives_put_it(layouts, tmp_path, inner) -> None:
    folder = tmp_path / "data"
    shutil.copytree(layouts["own"] / RELEASE, folder / inner)
    assert list(real(folder).asked) == list(real(layouts["own"]).asked)


def test_rows_of_the_table_may_stand_in_any_order(layouts, tmp_path) -> None:
    rows = layout.rows(40)
    random.Random(0).shuffle(rows)
    write_shards(tmp_path / "data", "test", rows)
    shuffled, hub = real(tmp_path), real(layouts["hub"])
    assert {item.id: item for item in shuffled.asked} == {item.id: item for item in hub.asked}
    assert shuffled.told == hub.told
    clusters = [item.cluster for item in shuffled.asked]
    assert clusters[::2] == clusters[1::2]
    answers = list(Eye().answer([item.ask for item in shuffled.asked], shuffled.decoding))
    assert all(judged.score for judged in shuffled.judge(shuffled.asked, answers))


def release(tmp_path: Path, layouts: dict[str, Path]) -> Path:
    shutil.copytree(layouts["own"], tmp_path / "mme")
    return tmp_path / "mme" / RELEASE


def test_byte_order_marks_and_line_ends_do_not_matter(layouts, tmp_path) -> None:
    folder = release(tmp_path, layouts)
    for file in folder.rglob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    changed, own = real(folder), real(layouts["own"])
    assert list(changed.asked) == list(own.asked)
    assert changed.told == own.told


def test_missing_images_are_named(layouts, tmp_path) -> None:
    folder = release(tmp_path, layouts)
    (folder / "scene/images/0001.jpg").unlink()
    with pytest.raises(InputError, match=r"scene/images: 1 of 2 images are missing \(0001.jpg\)"):
        mme.read(folder)
    partial = real(folder)
    assert (len(partial.asked), partial.whole) == (78, 2374)
    (folder / "scene/images/0002.jpg").unlink()
    refused_data(r"scene/images: 2 of 2 images are missing \(0001.jpg, 0002.jpg\)", folder)
    assert len(mme.read(folder, pictures=False, allow_partial=True)) == 80


@pytest.mark.parametrize("which", ["own", "hub"])
def test_a_broken_image_is_an_os_error_when_opened(layouts, tmp_path, which) -> None:
    name = "artwork/0001.jpg"
    if which == "own":
        folder = release(tmp_path, layouts)
        file = folder / "artwork/images/0001.jpg"
        file.write_bytes(file.read_bytes()[:700])
    else:
        folder = tmp_path
        rows = layout.rows(40)
        for row in rows:
            if row["question_id"] == name:
                row["image"] = {"bytes": row["image"]["bytes"][:700], "path": "0001.jpg"}
        write_shards(folder / "data", "test", rows)
    item = next(item for item in real(folder).asked if item.cluster == name)
    with pytest.raises(OSError, match="truncated"):
        item.ask.pictures[0].open().load()


def test_a_part_of_the_data_is_refused_unless_asked_for(layouts) -> None:
    for folder in layouts.values():
        refused_data("3 existence images, the official data have 30; .*--allow-partial", folder, allow_partial=False)


TEXTS = {
    "no answer": ("Is it?\nIs it not?\tNo\n", r"0001.txt:1: 1 columns where 2 are due"),
    "answer": ("Is it?\tYes\n\nIs it not?\tMaybe\n", r"0001.txt:3: answer 'Maybe' is neither Yes nor No"),
    "one question": ("Is it?\tYes\n", r"questions on OCR/0001.jpg \(yes\) are not two"),
    "a third": ("Is it?\tYes\nIs it not?\tNo\nOr?\tNo\n", r"questions on OCR/0001.jpg \(yes and no and no\)"),
    "two yes": ("Is it?\tYes\nIs it not?\tYes\n", r"questions on OCR/0001.jpg \(yes and yes\)"),
    "twice": ("Is it?\tYes\nIs  it?\tNo\n", r"questions on OCR/0001.jpg \(yes and no\)"),
    "no question": ("Is it?\tYes\n \tNo\n", r"0001.txt:2: 1 columns"),
}


@pytest.mark.parametrize("fault", TEXTS)
def test_a_wrong_text_is_named(layouts, tmp_path, fault) -> None:
    text, message = TEXTS[fault]
    folder = release(tmp_path, layouts)
    (folder / "OCR/0001.txt").write_text(text)
    refused_data(message, folder)


ROWS = {
    "category": ({"category": "color"}, "row 3: question_id 'artwork/0001.jpg' of category 'color' is not MME's"),
    "unknown": ({"question_id": "art/1.jpg", "category": "art"}, "row 3: question_id 'art/1.jpg' of category 'art'"),
    "no image": ({"question_id": "artwork"}, "row 3: question_id 'artwork' of"),
    "answer": ({"answer": None}, "row 3: answer None is neither Yes nor No"),
    "question": ({"question": None}, "row 3: question None is not a text"),
    "duplicate": ({"answer": "Yes"}, r"questions on artwork/0001.jpg \(yes and yes\)"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_wrong_row_of_the_hubs_table_is_named(tmp_path, fault) -> None:
    change, message = ROWS[fault]
    rows = layout.rows(20)
    at = next(n for n, row in enumerate(rows) if row["question_id"] == "artwork/0001.jpg") + 1
    rows[at] |= change
    write_shards(tmp_path / "data", "test", rows)
    refused_data(message.replace("row 3", f"row {at}"), tmp_path)


def test_wrong_tables_and_folders(layouts, tmp_path) -> None:
    refused_data(r"no data/test-\*.parquet and no folders existence, count", tmp_path)
    write_shards(tmp_path / "data", "test", [{"question_id": "x", "question": "?", "answer": "Yes"}] * 2)
    refused_data("no column 'category'", tmp_path)
    write_shards(tmp_path / "data", "test", [row for row in layout.rows(14 * 31) if row["category"] == "count"])
    refused_data("31 count images, the official data have 30", tmp_path)
    write_shards(tmp_path / "data", "test", layout.rows(40))
    (tmp_path / "data/test-00001-of-00002.parquet").unlink()
    refused_data("test-00001-of-00002.parquet: this file is missing", tmp_path)
    for subtask in mme.SUBTASKS:
        (tmp_path / "empty" / subtask).mkdir(parents=True)
    refused_data("no questions in it", tmp_path / "empty")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """All of MME, as far as it can be told without opening an image."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("own", "hub")}
    for subtask, rows in LINES.items():
        (folders["own"] / subtask).mkdir()
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            image = folders["own"] / subtask / first[0]
            image.touch()
            image.with_suffix(".txt").write_text("".join(f"{row[1]}\t{row[2]}\n" for row in (first, second)))
    table = [
        {"question_id": f"{subtask}/{image}", "question": question, "answer": gold, "category": subtask}
        for subtask, rows in LINES.items()
        for image, question, gold in rows
    ]
    write_shards(folders["hub"] / "data", "test", table, group=500)
    return folders


def test_saved_answers_are_scored_with_any_layout(whole, folder, template, tmp_path) -> None:
    rows = tmp_path / "answers.jsonl"
    ids = [f"{subtask}/{n}.jpg/{k}" for subtask, images in mme.IMAGES.items() for n in range(images) for k in (1, 2)]
    rows.write_text("".join(json.dumps({"id": name, "response": "yes"}) + "\n" for name in ids))
    for answers in (folder, rows):
        expected = score("mme", answers, template)
        for data in whole.values():
            found = score("mme", answers, data)
            assert (found.metrics, found.counts) == (expected.metrics, expected.counts)
            assert {r.key: r for r in found.records} == {r.key: r for r in expected.records}


def test_the_whole_is_taken_as_it_is(whole) -> None:
    own, hub = (real(folder, allow_partial=False) for folder in whole.values())
    assert len(own.asked) == len(hub.asked) == own.whole
    assert own.told == hub.told
    assert own.told["data"].startswith("test 2374; rows ")


def test_the_miniature_has_its_own_sum() -> None:
    task = mme.mini(Options())
    assert (task.name, task.whole, len(task.asked)) == ("mme-mini", 180, 180)
    assert list(task.asked) == list(mme.mini(Options()).asked)
    assert Counter(item.truth["subtask"] for item in task.asked) == {"existence": 60, "position": 60, "color": 60}
    assert task.asked[0].ask.text.endswith(" in the image?\nAnswer the question using a single word or phrase.")
    answers = list(Eye().answer([item.ask for item in task.asked], task.decoding))
    for said, total in ((answers, 600), (["yes"] * 180, 150)):
        judged = task.judge(task.asked, said)
        records = [
            Record(task.name, item.id, item.cluster, item.skills, 0, text, one.score, one.details)
            for item, text, one in zip(task.asked, said, judged, strict=True)
        ]
        found = task.metrics(records)
        assert [*found][:2] == ["perception", "existence"]
        assert (found["perception"].value, found["perception"].n, found["perception"].clusters) == (total, 180, 90)
    assert "perception" not in task.metrics(records[:60])


# --- Peers ------------------------------------------------------------------------------------------------------------

PIECES = "yes no Yes. NO not y n Y N. nope eyes maybe the I . , ** : Answer: yes, no! other \n \t".split(" ")


def generated(rng: random.Random) -> str:
    return rng.choice(("", "", " ", "  ", "\n")) + rng.choice(("", " ", " ")).join(
        rng.choice(PIECES) for _ in range(rng.randrange(4))
    )


@pytest.mark.peer
def test_lmms_eval_scores_alike() -> None:
    peer = lmms_eval("tasks/mme/utils.py")
    rng = random.Random(0)
    rows, theirs = [], defaultdict(list)
    for number in range(CASES):
        subtask = mme.SUBTASKS[number // 2 % len(mme.SUBTASKS)]
        answer = ("Yes", "No")[number % 2]
        text = generated(rng)
        assert mme.parse(text, "lmms-eval") == peer.parse_pred_ans(text), text
        rows.append({"category": subtask, "image": f"{number // 2}.png", "answer": answer, "response": text})
        doc = {"answer": answer, "category": subtask, "question_id": f"{subtask}/{number // 2}.png"}
        for key, value in peer.mme_process_results(doc, [text]).items():
            theirs[key].append(value)
    found = mme.metrics(judged(rows, "lmms-eval"))
    for group in mme.GROUPS:
        expected = peer.mme_aggregate_results(theirs[f"mme_{group}_score"])
        assert found[group].value == pytest.approx(expected, abs=1e-9)
