"""`ostro serve`: the OpenAI-compatible HTTP server."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ostro.cli import image_rules
from ostro.cli.model import (
    CoarseHead,
    Compute,
    Context,
    GgufFile,
    KvDtype,
    Mmproj,
    ModelArgument,
    ModelOption,
    ModelSource,
    PanAndScan,
    Repack,
    Threads,
    TokenizerSource,
    open_host,
    runtime_config,
)
from ostro.cli.quantization import (
    Calibration,
    Imatrix,
    Isq,
    IsqCache,
    IsqVision,
    Quantization,
    Topology,
)
from ostro.errors import OstroError

if TYPE_CHECKING:
    from ostro.cli.options import GlobalOptions
    from ostro.host import ModelHost

LOCAL = "127.0.0.1"


class AddressError(OstroError):
    """The server cannot listen where it was told to."""


def serve(
    ctx: typer.Context,
    model: ModelArgument = None,
    model_option: ModelOption = None,
    file: GgufFile = None,
    mmproj: Mmproj = None,
    tok_model_id: TokenizerSource = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 1234,
    address: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is everybody.")
    ] = LOCAL,
    isq: Isq = None,
    isq_vision: IsqVision = True,
    isq_cache: IsqCache = None,
    topology: Topology = None,
    imatrix: Imatrix = None,
    calibration_file: Calibration = None,
    max_seqs: Annotated[int, typer.Option(min=1, help="Sequences in one step.")] = 32,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Sequences that may wait before 429 is the answer.")
    ] = 1024,
    threads: Threads = 0,
    context: Context = None,
    compute: Compute = "auto",
    kv_dtype: KvDtype = None,
    repack: Repack = True,
    coarse_head: CoarseHead = False,
    pan_and_scan: PanAndScan = None,
    allowed_image_root: image_rules.Roots = None,
    allow_private_image_hosts: image_rules.PrivateHosts = False,
    no_image_urls: image_rules.NoUrls = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's API does.

    Without MODEL it is the small vision model inside the package.
    """
    options: GlobalOptions = ctx.obj
    options.refuse_page_form("serve")
    quantization = Quantization(
        isq=isq,
        vision=isq_vision,
        cache=isq_cache,
        topology=topology,
        imatrix=imatrix,
        calibration=calibration_file,
    )
    source = ModelSource.of(model, model_option, file=file, mmproj=mmproj, tok_model_id=tok_model_id)
    runtime = runtime_config(
        options,
        threads=threads,
        context=context,
        compute=compute,
        kv_dtype=kv_dtype,
        max_seqs=max_seqs,
        max_waiting=max_waiting,
        repack=repack,
        coarse_head=coarse_head,
    )
    image_rules.check(private_hosts=allow_private_image_hosts, no_urls=no_image_urls)
    images = image_rules.access(
        local=check_address(address, port),
        roots=allowed_image_root or [],
        private_hosts=allow_private_image_hosts,
        no_urls=no_image_urls,
    )
    host = open_host(
        source, runtime, options, quantization=quantization, images=images, pan_and_scan=pan_and_scan
    )
    rules_given = bool(allowed_image_root or allow_private_image_hosts or no_image_urls)
    if rules_given and host.config.vision is not None:
        print(image_rules.describe(images), flush=True)
    serve_host(host, address, port)


def serve_host(host: ModelHost, address: str, port: int) -> None:
    """Serve until interrupted; says where."""
    from ostro.server.app import serve as serve_http

    with host:
        if port:
            shown = f"[{address}]" if ":" in address else address
            print(
                f"{host.name} answers at http://{shown}:{port}/v1, see also /docs. Ctrl-C stops it.",
                flush=True,
            )
        with suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
            serve_http(host, address, port)


def check_address(address: str, port: int) -> bool:
    """Whether only this machine can reach the address; AddressError if nobody could listen there.

    Asked before the model is loaded, not after. A note on stderr when other machines can reach it.
    """
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, target = found[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressError(
                f"port {port} of {address} is in use: stop the program that has it, "
                "or choose another with --port"
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise AddressError(
                f"port {port} of {address} needs more rights: use --port 1024 or above"
            ) from None
        raise AddressError(f"cannot listen on {address}, port {port}: {error.strerror}") from None
    # The server listens on every address that a name has.
    local = all(_is_loopback(str(target[0])) for *_, target in found)
    if not local:
        print(
            f"note: {address} can be reached from other machines, and there is no password", file=sys.stderr
        )
    return local


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
