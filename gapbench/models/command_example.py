"""A program for `--model "command:PYTHON command_example.py"`: copy it into a system's own environment and put the
system where the two functions are. It needs Python 3.8 and Pillow, and nothing of gapbench.

These two draw a picture of one colour, made of the text and the seed, and answer with the colour of a picture's middle.
"""

import base64
import io
import json
import os
import random
import sys
import traceback

from PIL import Image

HELLO = {"gapbench": 1, "name": "one-colour", "answers": True, "draws": True, "describe": {"size": 64}}


def answer(text, pictures, request):
    """A text, from a text and RGB pictures. `request` holds the rest: max_new_tokens, temperature, seed ..."""
    if not pictures:
        return "no picture"
    return "#{:02x}{:02x}{:02x}".format(*pictures[0].getpixel((pictures[0].width // 2, pictures[0].height // 2)))


def draw(text, seed, request):
    """A picture, from a text and a seed alone. `request` holds the rest: steps and guidance, null for your own."""
    chance = random.Random(f"{seed} {text}")
    return Image.new("RGB", (64, 64), tuple(chance.randrange(256) for _ in "RGB"))


def respond(request):
    if request["kind"] == "draw":
        png = io.BytesIO()
        draw(request["text"], request["seed"], request).save(png, "PNG")
        return {"png": base64.b64encode(png.getvalue()).decode()}
    pictures = [Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in request["pictures"]]
    return {"text": answer(request["text"], pictures, request)}


def main():
    # What libraries print goes to standard error; only replies go out.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(HELLO), file=out, flush=True)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            reply = respond(request)
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"id": request["id"], **reply}), file=out, flush=True)


if __name__ == "__main__":
    main()
