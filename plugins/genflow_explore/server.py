"""The server of the pages: this machine alone, nothing from outside, and an end without noise."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from urllib.parse import urlsplit

import click
import uvicorn
from fastapi import FastAPI
from nicegui import app as nicegui
from nicegui import background_tasks, ui
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genflow import GenflowError

from . import tasks
from .grid_page import GridPage, start
from .molecule_page import MoleculePage
from .work import Worker

HOST = "127.0.0.1"
#: the browser itself refuses what is not of this page; Vue compiles its templates there
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; form-action 'none';"
    " frame-ancestors 'none'"
)


class Guard:
    """Sends `POLICY` with every page, and answers no page of another origin."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, with_policy)


class Server(uvicorn.Server):
    """Ends at the first Ctrl-C, without raising it again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM meanwhile."""
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def application() -> FastAPI:
    """The two pages, each with a process of its own."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app.add_middleware(Guard)
    grids, molecules = Worker(), Worker()

    @ui.page("/")
    def hypergrid() -> None:
        GridPage(grids)

    @ui.page("/molecules")
    def page_of_molecules() -> None:
        MoleculePage(molecules)

    async def warm() -> None:
        with contextlib.suppress(GenflowError):  # whoever asks the same is told
            await grids.do(tasks.grid, start(), 0, 0)
            await molecules.do(tasks.warm)

    nicegui.on_startup(lambda: background_tasks.create(warm()))
    ui.run_with(app, title="genflow", language="en-US", tailwind=False, show_welcome_message=False)
    return app


def serve(port: int, browser: bool) -> None:
    """Serve the pages until Ctrl-C.

    Raises:
        GenflowError: the port is taken, or this user may not have it.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise GenflowError(
                f"port {port} of this machine cannot be used ({error.strerror}); give another one by --port,"
                " or --port 0 for one that is free"
            ) from None
        listening.listen()
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        config = uvicorn.Config(
            application(), log_level="critical", access_log=False, timeout_graceful_shutdown=1, ws="auto"
        )
        click.echo(f"genflow explore: {address} (Ctrl-C ends it)")
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            Server(config).run(sockets=[listening])
        finally:
            for each in multiprocessing.active_children():
                each.kill()
