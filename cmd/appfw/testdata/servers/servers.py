"""Serves HTTP by one of the servers of Python: servers.py NAME PORT. What it says is for which host it was asked."""
import sys

name, port = sys.argv[1], int(sys.argv[2])


def page(host):
    host = host or ""
    return b"served shared.example" if "shared.example" in host.lower() else b"served another host"


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [page(environ.get("HTTP_HOST"))]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    host = b"".join(v for k, v in scope["headers"] if k == b"host").decode("latin-1")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": page(host)})


def http_server():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = page(self.headers.get("Host"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

    ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()


def twisted():
    from twisted.internet import reactor
    from twisted.web import resource, server

    class Page(resource.Resource):
        isLeaf = True

        def render(self, request):
            return page((request.getHeader("host") or "") + request.uri.decode("latin-1") * (b"://" in request.uri))

    reactor.listenTCP(port, server.Site(Page()))
    reactor.run()


def tornado():
    import asyncio

    from tornado.httpserver import HTTPServer

    def serve(request):
        body = page(request.host)
        from tornado.httputil import HTTPHeaders, ResponseStartLine
        request.connection.write_headers(ResponseStartLine("HTTP/1.1", 200, "OK"), HTTPHeaders({"Content-Length": str(len(body))}))
        request.connection.write(body)
        request.connection.finish()

    async def main():
        HTTPServer(serve).listen(port)
        await asyncio.Event().wait()

    asyncio.run(main())


def waitress():
    from waitress import serve
    serve(wsgi, host="0.0.0.0", port=port, threads=8)


def cheroot():
    from cheroot.wsgi import Server
    Server(("0.0.0.0", port), wsgi).start()


def gunicorn():
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self):
            for key, value in {"bind": f"0.0.0.0:{port}", "worker_class": "gthread", "threads": 16}.items():
                self.cfg.set(key, value)

        def load(self):
            return wsgi

    Application().run()


def uvicorn():
    import uvicorn as u
    u.run(asgi, host="0.0.0.0", port=port, log_level="error")


def hypercorn():
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    config = Config()
    config.bind = [f"0.0.0.0:{port}"]
    asyncio.run(serve(asgi, config))


def daphne():
    from daphne.endpoints import build_endpoint_description_strings
    from daphne.server import Server
    Server(asgi, endpoints=build_endpoint_description_strings(host="0.0.0.0", port=port), signal_handlers=False).run()


def aiohttp():
    from aiohttp import web

    async def serve(request):
        return web.Response(body=page(request.headers.get("Host")))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    web.run_app(app, host="0.0.0.0", port=port, print=None)


def werkzeug():
    from werkzeug.serving import run_simple
    run_simple("0.0.0.0", port, wsgi, threaded=True)


globals()[name]()
