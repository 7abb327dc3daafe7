"""Flickr30k's saved captions: COCO's result files and ours; and the numbers of pycocoevalcap itself, in Java."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from gapbench.data import sources
from gapbench.records import Estimate, InputError, Judgement, Record
from gapbench.responses import RECORDED, Found, Saved, found, match, read_rows, records_of, unreadable
from gapbench.tasks import flickr30k

# official       Penn Treebank words, cut by us
# vlmevalkit     no tokeniser and no lower case, words are what white space separates
# pycocoevalcap  the library itself, Java and all, to check ours by; the intervals are ours
VARIANTS = ("official", "vlmevalkit", "pycocoevalcap")
_KEYS = ("image_id", "caption")  # of COCO's result file
_LINE_ENDS = re.compile("[\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


def read_saved(path: Path, data: Path | None) -> Saved:
    """Captions of all images as a COCO result file, a JSON list of {"image_id", "caption"}, or rows {"id", "response"}.

    An image goes by its file's name without .jpg, or by the number that the hub gives it (img_id): names begin at
    36979, where numbers have ended.
    """
    return _read("flickr30k", flickr30k.read, path, data)


def read_saved_karpathy(path: Path, data: Path | None) -> Saved:
    """`read_saved` for Karpathy's test split; numbers are those of his file (imgid)."""
    return _read("flickr30k-karpathy", flickr30k.read_karpathy, path, data)


def _read(task: str, read: Callable[..., flickr30k.Annotations], path: Path, data: Path | None) -> Saved:
    annotations = read(sources.find(task, data, fetch=False).folder, pictures=False)
    items = {item.id: item for item in annotations.items}
    captions, bad = [], []
    for row in read_rows(path):
        answer = found(row.value) or found(row.value, _KEYS) or found(row.value, RECORDED)
        if answer is None:
            bad.append(unreadable(row))
        else:
            name = answer.id if answer.id in items else annotations.id_of.get(answer.id, answer.id)
            captions.append(Found(name, answer.response))
    answers = match(items, captions, bad)

    def judge(variant: str) -> list[Record]:
        if variant == "pycocoevalcap":
            said = _java_words({name: [caption] for name, caption in answers.given.items()})
            references = _java_words({name: items[name].truth["references"] for name in answers.given})

        def one(name: str, caption: str) -> tuple[str, tuple[str, ...], Judgement]:
            item = items[name]
            if variant == "pycocoevalcap":
                return item.cluster, item.skills, flickr30k.judgement(said[name][0], references[name])
            return item.cluster, item.skills, flickr30k.judge_item(item, caption, variant)

        return records_of(task, answers, one)

    return Saved(answers, judge, (f"data: {annotations.data}",))


def metrics(records: Sequence[Record], variant: str = "official") -> dict[str, Estimate]:
    estimates = flickr30k.metrics(records)
    if variant == "pycocoevalcap":
        values = _library_values(records)
        estimates = {name: estimate.valued(values[name]) for name, estimate in estimates.items()}
    return estimates


def remarks(records: Sequence[Record], estimates: Mapping[str, Estimate]) -> tuple[str, ...]:
    n = estimates["cider"].n
    lines = [
        f"N = {n}: CIDEr's document frequencies are of the captions of these {n} images; "
        "values of other sets of images do not compare" + (", and that of one image is 0" if n == 1 else "")
    ]
    if not _lacking():
        lines.append(_meteor(records))
    return tuple(lines)


# --- pycocoevalcap ----------------------------------------------------------------------------------------------------


def _lacking() -> str:
    """What the library needs and this machine has not."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "the package pycocoevalcap (pip install pycocoevalcap)"
    return "" if shutil.which("java") else "java on the PATH"


def _java_words(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The captions of each image through the library's tokeniser, which makes several lines of one with line ends."""
    if lacking := _lacking():
        raise InputError(f"--variant pycocoevalcap needs {lacking}; the variant official needs neither it nor Java")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = {name: [{"caption": _LINE_ENDS.sub(" ", text)} for text in texts] for name, texts in captions.items()}
    return PTBTokenizer().tokenize(lines)


def _captions(records: Sequence[Record]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """References and captions by image, as the library takes them."""
    references = {record.item: list(record.details["references"]) for record in records}
    return references, {record.item: [record.details["said"]] for record in records}


def _library_values(records: Sequence[Record]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    with redirect_stdout(io.StringIO()):  # it prints its lengths
        bleu, _ = Bleu(4).compute_score(*_captions(records))
        cider, _ = Cider().compute_score(*_captions(records))
        rouge, _ = Rouge().compute_score(*_captions(records))
    named = {f"bleu_{n}": value for n, value in enumerate(bleu, start=1)} | {"cider": 100 * cider, "rouge_l": rouge}
    return {name: float(value) for name, value in named.items()}


def _meteor(records: Sequence[Record]) -> str:
    """METEOR of the set, which is no mean over images and has no interval. Its program takes a line a caption."""
    from pycocoevalcap.meteor.meteor import Meteor

    references, said = _captions(records)
    for texts in (*references.values(), *said.values()):
        texts[:] = [_LINE_ENDS.sub(" ", text) for text in texts]
    try:
        value, _ = Meteor().compute_score(references, said)
    except (OSError, ValueError) as error:
        return f"METEOR could not be computed by pycocoevalcap ({error})"
    return f"METEOR {100 * value:.1f} (pycocoevalcap, Java)"
