/* Shakes hands by mbedTLS: mbedtls PORT CERTIFICATE KEY. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <pthread.h>
#include <stdlib.h>

static mbedtls_ssl_config config;

static void *serve(void *arg)
{
	mbedtls_net_context *c = arg;
	mbedtls_ssl_context ssl;
	int n;

	mbedtls_ssl_init(&ssl);
	if (mbedtls_ssl_setup(&ssl, &config) == 0) {
		mbedtls_ssl_set_bio(&ssl, c, mbedtls_net_send, mbedtls_net_recv, NULL);
		while ((n = mbedtls_ssl_handshake(&ssl)) == MBEDTLS_ERR_SSL_WANT_READ || n == MBEDTLS_ERR_SSL_WANT_WRITE)
			;
	}
	mbedtls_ssl_free(&ssl);
	mbedtls_net_free(c);
	free(c);
	return NULL;
}

int main(int argc, char **argv)
{
	static mbedtls_net_context listener;
	static mbedtls_x509_crt cert;
	static mbedtls_pk_context key;
	static mbedtls_entropy_context entropy;
	static mbedtls_ctr_drbg_context random;
	pthread_t thread;

	mbedtls_ssl_config_init(&config);
	mbedtls_x509_crt_init(&cert);
	mbedtls_pk_init(&key);
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_net_init(&listener);
	if (mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0) ||
		mbedtls_x509_crt_parse_file(&cert, argv[2]) || mbedtls_pk_parse_keyfile(&key, argv[3], NULL) ||
		mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT))
		return 1;
	mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
	if (mbedtls_ssl_conf_own_cert(&config, &cert, &key) || mbedtls_net_bind(&listener, "0.0.0.0", argv[1], MBEDTLS_NET_PROTO_TCP))
		return 1;
	for (;;) {
		mbedtls_net_context *c = malloc(sizeof *c);
		mbedtls_net_init(c);
		if (mbedtls_net_accept(&listener, c, NULL, 0, NULL) == 0)
			pthread_create(&thread, NULL, serve, c);
	}
}
