// lookup NAME...: prints each with an address of it a line, or with "!" and the
// error. To be linked with glibc, and statically with musl.
#define _GNU_SOURCE
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *a;
		int err = getaddrinfo(argv[i], NULL, &hints, &list);
		switch (err) {
		case 0:
			break;
		case EAI_NONAME:
			printf("%s !unknown\n", argv[i]);
			continue;
#ifdef EAI_NODATA
		case EAI_NODATA:
			printf("%s !nodata\n", argv[i]);
			continue;
#endif
		default:
			printf("%s !%s\n", argv[i], gai_strerror(err));
			continue;
		}
		for (a = list; a; a = a->ai_next) {
			char addr[64];
			getnameinfo(a->ai_addr, a->ai_addrlen, addr, sizeof addr, NULL, 0, NI_NUMERICHOST);
			printf("%s %s\n", argv[i], addr);
		}
		freeaddrinfo(list);
	}
}
