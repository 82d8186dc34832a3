/* Serves HTTP by libevent: event PORT. What it says is for which host it was asked. */
#define _GNU_SOURCE
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdlib.h>
#include <string.h>

static void serve(struct evhttp_request *r, void *arg)
{
	const char *host = evhttp_request_get_host(r);
	struct evbuffer *b = evbuffer_new();
	evbuffer_add_printf(b, "%s", host && strcasestr(host, "shared.example") ? "served shared.example" : "served another host");
	evhttp_send_reply(r, 200, "OK", b);
	evbuffer_free(b);
}

int main(int argc, char **argv)
{
	struct event_base *base = event_base_new();
	struct evhttp *http = evhttp_new(base);
	evhttp_set_gencb(http, serve, NULL);
	if (evhttp_bind_socket(http, "0.0.0.0", atoi(argv[1])))
		return 1;
	return event_base_dispatch(base);
}
