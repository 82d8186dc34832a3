package conntest_test

import (
	"io"
	"testing"

	"appfw/proxy/conntest"
)

func Example() {
	_ = func(t *testing.T) {
		conntest.NoLeak(t)
		client, server := conntest.Pair(t)
		conntest.Send(t, client, "ping")
		conntest.Receive(t, server, "ping")
		_ = client.CloseWrite()
		conntest.ReceiveEnd(t, server, io.EOF)
	}
}
