package tcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// The connections are as those of package net, as its own test of them sees it.
func TestConn(t *testing.T) {
	for _, at := range loopbacks {
		t.Run(at.String(), func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b, err := pair(own, own, at)
				if err != nil {
					return nil, nil, nil, err
				}
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

// writeAll writes until that fails.
func writeAll(c conn) error {
	data := make([]byte, 1<<20)
	for {
		if _, err := c.Write(data); err != nil {
			return err
		}
	}
}

func read(c conn) error {
	n, err := c.Read(make([]byte, 10))
	if n != 0 {
		return fmt.Errorf("%d bytes, %w", n, err)
	}
	return err
}

func resetBy(b conn) { _ = errors.Join(b.SetLinger(0), b.Close()) }

// Whatever ends a call, its error is the one that package net has.
func TestErrors(t *testing.T) {
	past := time.Unix(1, 0)
	soon := func() time.Time { return time.Now().Add(time.Millisecond) }
	for _, c := range []struct {
		name string
		do   func(t *testing.T, a, b conn) error
		want []error // one of them
	}{
		{"Read at the end", func(t *testing.T, a, b conn) error { b.Close(); return read(a) }, []error{io.EOF}},
		{"Read at the end again", func(t *testing.T, a, b conn) error {
			b.Close()
			if err := read(a); err != io.EOF {
				return err
			}
			return read(a)
		}, []error{io.EOF}},
		{"Read of nothing", func(t *testing.T, a, b conn) error { _, err := a.Read(nil); return err }, []error{nil}},
		{"Write of nothing", func(t *testing.T, a, b conn) error { _, err := a.Write(nil); return err }, []error{nil}},
		{"Read after a reset", func(t *testing.T, a, b conn) error { resetBy(b); return read(a) }, []error{unix.ECONNRESET}},
		{"Read while a reset comes", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return read(a) })
			resetBy(b)
			return result(t, ended)
		}, []error{unix.ECONNRESET}},
		{"Write after a reset", func(t *testing.T, a, b conn) error { resetBy(b); return writeAll(a) }, []error{unix.ECONNRESET, unix.EPIPE}},
		{"Write while a reset comes", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return writeAll(a) })
			resetBy(b)
			return result(t, ended)
		}, []error{unix.ECONNRESET, unix.EPIPE}},
		{"Write after a reset was read", func(t *testing.T, a, b conn) error { resetBy(b); _ = read(a); return writeAll(a) }, []error{unix.EPIPE}},
		{"Write after CloseWrite", func(t *testing.T, a, b conn) error {
			if err := a.CloseWrite(); err != nil {
				return err
			}
			return writeAll(a)
		}, []error{unix.EPIPE}},
		{"CloseWrite after a reset", func(t *testing.T, a, b conn) error { resetBy(b); _ = read(a); return a.CloseWrite() }, []error{unix.ENOTCONN}},
		{"Read with a past deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetReadDeadline(past), read(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Read until a deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetDeadline(soon()), read(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Read while a deadline is set", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return read(a) })
			return errors.Join(a.SetReadDeadline(past), result(t, ended))
		}, []error{os.ErrDeadlineExceeded}},
		{"Write with a past deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetWriteDeadline(past), writeAll(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Write until a deadline", func(t *testing.T, a, b conn) error { return errors.Join(a.SetDeadline(soon()), writeAll(a)) }, []error{os.ErrDeadlineExceeded}},
		{"Write while a deadline is set", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return writeAll(a) })
			return errors.Join(a.SetWriteDeadline(past), result(t, ended))
		}, []error{os.ErrDeadlineExceeded}},
		{"Read while it is closed", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return read(a) })
			return errors.Join(a.Close(), result(t, ended))
		}, []error{net.ErrClosed}},
		{"Write while it is closed", func(t *testing.T, a, b conn) error {
			ended := waiting(t, func() error { return writeAll(a) })
			return errors.Join(a.Close(), result(t, ended))
		}, []error{net.ErrClosed}},
		{"Read after Close", func(t *testing.T, a, b conn) error { a.Close(); return read(a) }, []error{net.ErrClosed}},
		{"Write after Close", func(t *testing.T, a, b conn) error { a.Close(); return writeAll(a) }, []error{net.ErrClosed}},
		{"CloseWrite after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.CloseWrite() }, []error{net.ErrClosed}},
		{"SetLinger after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetLinger(0) }, []error{net.ErrClosed}},
		{"SetDeadline after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetDeadline(past) }, []error{net.ErrClosed}},
		{"SetReadDeadline after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetReadDeadline(past) }, []error{net.ErrClosed}},
		{"SetWriteDeadline after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.SetWriteDeadline(past) }, []error{net.ErrClosed}},
		{"Close after Close", func(t *testing.T, a, b conn) error { a.Close(); return a.Close() }, []error{net.ErrClosed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, a, b conn) {
				err := c.do(t, a, b)
				for _, want := range c.want {
					if !errors.Is(err, want) {
						continue
					}
					var timeout net.Error
					switch want {
					case io.EOF:
						if err != want { // nobody asks errors.Is for it
							t.Errorf("%#v is not io.EOF itself", err)
						}
					case os.ErrDeadlineExceeded:
						if !errors.As(err, &timeout) || !timeout.Timeout() {
							t.Errorf("%#v is no timeout", err)
						}
					}
					return
				}
				t.Errorf("%v, not %v", err, c.want)
			})
		})
	}
}

// The end of one direction leaves the other.
func TestCloseWrite(t *testing.T) {
	each(t, func(t *testing.T, a, b conn) {
		if _, err := a.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(b); string(all) != "question" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		if _, err := b.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if all, err := io.ReadAll(a); string(all) != "answer" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
	})
}

// One Write of more than the kernel has room for arrives whole, however it is read.
func TestLargeWrite(t *testing.T) {
	data := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	each(t, func(t *testing.T, a, b conn) {
		var sent int
		ended := waiting(t, func() (err error) {
			defer a.Close()
			sent, err = a.Write(data)
			return err
		})
		rest, buffer := data, make([]byte, 1<<16)
		for size := 1; ; size = size*7%len(buffer) + 1 {
			n, err := b.Read(buffer[:size])
			if n > len(rest) || !bytes.Equal(buffer[:n], rest[:min(n, len(rest))]) {
				t.Fatalf("other data after %d bytes", len(data)-len(rest))
			}
			if rest = rest[n:]; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if err := result(t, ended); err != nil || sent != len(data) || len(rest) > 0 {
			t.Errorf("sent %d bytes, %d of them are missing: %v", sent, len(rest), err)
		}
	})
}

// What was written of a Write that ends too early is counted.
func TestPartOfWrite(t *testing.T) {
	each(t, func(t *testing.T, a, b conn) {
		var sent int
		ended := waiting(t, func() (err error) {
			sent, err = a.Write(make([]byte, 64<<20))
			return err
		})
		_ = a.SetWriteDeadline(time.Unix(1, 0))
		if err := result(t, ended); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		a.Close()
		if n, err := io.Copy(io.Discard, b); err != nil || int(n) != sent || n == 0 {
			t.Errorf("%d bytes came of %d: %v", n, sent, err)
		}
	})
}
