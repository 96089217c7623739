"""The command that waits for series on the hospital's network."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show
from medseg.apps.terminal import TERMINAL
from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from medseg.core.listening import Job, ListenSettings
    from medseg.workflows.listen import Listening


def listen(
    send: Annotated[str | None, typer.Option(help="AE@host:port that gets SEG and SR.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Leave the results in this folder.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    bundle: Annotated[Path | None, typer.Option(help="Model folder; default: the workspace's newest.")] = None,
    ae_title: Annotated[str | None, typer.Option(help="Our AE title. Default: MEDSEG.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 11112; 0: any free one.")] = None,
    bind: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    allow_remote: Annotated[bool | None, typer.Option("--allow-remote", help="Listen on the network.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Who may call: AE@ADDRESS, AE or @ADDRESS; may be repeated.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate: speak TLS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key. Default: in --tls-cert.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM authorities: callers and destination must show their certificate.")
    ] = None,
    send_tls: Annotated[bool | None, typer.Option("--send-tls", help="TLS towards --send, too.")] = None,
    settle: Annotated[str | None, typer.Option(help="Silence that ends a series: 10s.")] = None,
    keep: Annotated[bool | None, typer.Option("--keep", help="Keep received series and results.")] = None,
    format_: o.Formats = None,
    terminology: o.Terminology = None,
    private_codes: o.PrivateCodes = None,
    phase: o.Phase = None,
    fix_geometry: o.FixGeometry = None,
    suv: o.Suv = None,
    device: o.Device = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed series again.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the queue, and end.")] = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Receive DICOM series (C-STORE), segment them, and send SEG and SR on; Ctrl-C or SIGTERM ends it.

    The queue lies in WORKSPACE/pacs and survives a kill: the same command goes on. Needs `medseg[pacs]`.

    Example: `medseg listen --port 11112 --send PACS@127.0.0.1:104`
    """
    queue = workspace / "pacs"
    if status:
        _show_status(queue, as_json=json)
        return
    from medseg.workflows.config import load_settings
    from medseg.workflows.listen import listen as run
    from medseg.workflows.workspace import Workspace

    chosen = show.resolve(
        load_settings(config, set_ or ()),
        "listen",
        send=send,
        ae_title=ae_title,
        port=port,
        bind=bind,
        allow_remote=allow_remote,
        allow=allow,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_ca=tls_ca,
        send_tls=send_tls,
        settle_s=None if settle is None else _seconds(settle),
        keep=keep,
    )
    chosen = show.resolve(
        chosen,
        "infer",
        formats=format_,
        terminology=terminology,
        private_codes=private_codes,
        phase=phase,
        fix_geometry=fix_geometry,
        suv=suv,
        device=device,
    )
    model = bundle or Workspace(workspace).newest_bundle()
    if dry_run:
        _show_plan(chosen.listen, model, queue, out)
        return

    def watch(event: Listening | Job) -> None:
        _show_event(event, as_json=json)

    run(model, queue, chosen.infer, chosen.listen, out=out, watch=watch, retry_failed=retry_failed)
    TERMINAL.say("stopped; the same command goes on")


def _seconds(text: str) -> float:
    from medseg.core.settings import seconds

    try:
        return seconds(text)
    except ValueError as error:
        message = f"--settle {error}"
        raise UsageError(message, code="E-OPTION") from None


def _show_plan(settings: ListenSettings, model: Path, queue: Path, out: Path | None) -> None:
    from medseg.io.tls import require_tls

    require_tls(settings)
    shown = "their certificate needed" if settings.tls_ca else "any certificate or none"
    rows = (
        ("would listen as", f"{settings.ae_title} on {settings.bind}:{settings.port}"),
        ("who may call", ", ".join(settings.allow) or "anyone on this machine"),
        ("TLS with callers", f"yes, {shown}" if settings.tls_cert else "no"),
        ("TLS with the destination", "yes" if settings.send_tls else "no"),
        ("model", str(model)),
        ("queue", str(queue)),
        ("results", str(settings.destination or out or queue / "results")),
    )
    TERMINAL.table(("", ""), rows)


def _show_event(event: Listening | Job, *, as_json: bool) -> None:
    from medseg.core.listening import Job

    if not isinstance(event, Job):
        TERMINAL.say(f"listening as {event.ae_title} on {event.address}:{event.port}; queue: {event.queue}")
    elif as_json:
        TERMINAL.json(event.model_dump_json(exclude={"instances"}))
    else:
        TERMINAL.say(f"{event.id}: {_described(event)}")


def _show_status(queue: Path, *, as_json: bool) -> None:
    from json import dumps

    from medseg.workflows.pacs_queue import read_queue

    jobs, is_open = read_queue(queue)
    if as_json:
        rows = [job.model_dump(mode="json", exclude={"instances"}) for job in jobs]
        TERMINAL.json(dumps({"listening": is_open, "jobs": rows}, indent=2))
        return
    TERMINAL.result("a process is listening" if is_open else "no process is listening")
    if jobs:
        table = [(job.id, f"{datetime.fromtimestamp(job.changed):%Y-%m-%d %H:%M:%S}", _described(job)) for job in jobs]
        TERMINAL.table(("series", "changed", "state"), table)


def _described(job: Job) -> str:
    """State, and what there is to know."""
    tried = f", tried {job.tries} time(s)" if job.code and job.state != "failed" else ""
    why = f" [{job.code}] {job.reason}" if job.code else ""
    return f"{job.state}{tried}{why}{''.join(f' {flag}' for flag in job.flags)}"
