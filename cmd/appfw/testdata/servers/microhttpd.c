/* Serves HTTP by libmicrohttpd: microhttpd PORT. What it says is for which host it was asked. */
#define _GNU_SOURCE
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum MHD_Result serve(void *cls, struct MHD_Connection *c, const char *url, const char *method,
	const char *version, const char *data, size_t *size, void **state)
{
	if (*state == NULL) {
		*state = c;
		return MHD_YES;
	}
	if (*size > 0) {
		*size = 0;
		return MHD_YES;
	}
	const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
	char *page = host && strcasestr(host, "shared.example") ? "served shared.example" : "served another host";
	struct MHD_Response *r = MHD_create_response_from_buffer(strlen(page), page, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result done = MHD_queue_response(c, 200, r);
	MHD_destroy_response(r);
	return done;
}

int main(int argc, char **argv)
{
	if (!MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, atoi(argv[1]), NULL, NULL, serve, NULL,
		MHD_OPTION_STRICT_FOR_CLIENT, -1, MHD_OPTION_END))
		return 1;
	for (;;)
		pause();
}
