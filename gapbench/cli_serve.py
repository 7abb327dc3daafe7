"""`gapbench serve`: a model on an OpenAI-compatible endpoint, for other toolkits."""

from __future__ import annotations

import queue
import signal
from typing import Annotated

import typer

from gapbench.cli_data import Debug
from gapbench.records import InputError
from gapbench.terminal import err, out


def serve(
    model: Annotated[
        str, typer.Option(help="A zoo name (`gapbench list models`) or a checkpoint folder.")
    ] = "show-o-mini",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free; the URL is printed.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="GAPBENCH_API_KEY", help="What clients must send as their key; by default all may ask."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default a GPU if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; bfloat16 on CUDA.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let Python files that come with the weights run.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Put a model on an OpenAI-compatible endpoint: chat with pictures, and drawing, if it can.

    Ctrl-C or SIGTERM lets requests that are under way finish; a second one does not.
    """
    from gapbench.models import zoo
    from gapbench.serve.http import Server
    from gapbench.serve.service import Service

    entry = zoo.resolve(model, trust_remote_code)
    server = Server(host, port, api_key, lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True))
    service = Service(model, zoo.load(model, device, dtype, trust_remote_code), entry.answers, entry.draws)
    does = [what for what, able in (("answers", service.answers), ("draws", service.draws)) if able]
    if not does:
        raise InputError(f"--model {model}: it neither answers nor draws")
    with server.serving(service) as url:
        line = f"{model} {' and '.join(does)} at {url}" + (", with the key" if api_key else "") + "; Ctrl-C stops it"
        # Set before the line is out: whoever reads it may stop us.
        stop = _stop_signals()
        out.print(line, highlight=False, markup=False, soft_wrap=True)
        stop.get()
        err.print("stopping: requests under way finish first", highlight=False)


def _stop_signals() -> queue.SimpleQueue[int]:
    """Where the first SIGINT or SIGTERM arrives; from then on they do what they do to any program."""
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()  # the one queue that a signal handler may put into
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        arrived.put(number)

    for number in before:
        signal.signal(number, handle)
    return arrived


def register(app: typer.Typer) -> None:
    app.command()(serve)
