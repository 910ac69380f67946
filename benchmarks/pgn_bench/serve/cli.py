"""`pgn-bench serve`: a phone's browser measures itself."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import segno
import typer
from rich.markup import escape

from pgn import command
from pgn.files import check_folder
from pgn_bench import web
from pgn_bench.deployed import PAPER_HELP
from pgn_bench.serve import jobs
from pgn_bench.serve.server import Server
from pgn_bench.serve.site import Site
from pgn_bench.timing import BLOCK, NOISY, WARM_UP


def serve_command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PACK|MODEL]...",
            help="Packs, .onnx files of pgn-export, or folders of them; the bundled networks, "
            "exported at first, if none is named.",
        ),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help=PAPER_HELP)] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder that results are written to.")
    ] = Path("results"),
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets phones in this network in, by https.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 0,
    rounds: Annotated[int, typer.Option(help=f"Blocks of {BLOCK} timed calls.", min=1)] = 8,
    onnxruntime_web: Annotated[
        Path | None, typer.Option(help="Unpacked npm package, to need no network.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead.")] = False,
) -> None:
    """Open a page on which a phone's browser measures itself and posts the figures back.

    By cable: adb reverse tcp:PORT tcp:PORT, and the address as it is. Without: --host 0.0.0.0; the
    browser warns of the certificate, which this command has made itself, and can go on.
    """
    check_folder(output)
    runtime = web.unpacked(onnxruntime_web) if onnxruntime_web else web.fetch()

    def tell(path: Path) -> None:
        typer.echo(json.dumps({"result": str(path)}) if as_json else path)

    settings = {
        "rounds": rounds,
        "block": BLOCK,
        "warm_up": WARM_UP,
        "noisy": NOISY,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    site = Site([], runtime, settings, output, tell)
    with Server(site, host, port) as server:  # before minutes of work: is the port free?
        with command.stderr.status("checking") as status:
            site.jobs += jobs.prepare(models or [], paper, lambda text: status.update(escape(text)))
        if as_json:
            typer.echo(json.dumps({"address": server.address}))
        else:
            segno.make(server.address).terminal(out=sys.stderr, compact=True)
            typer.echo(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo(f"results: {len(site.saved)}, refused posts: {site.refused}", err=True)
