package message

import (
	"io"
	"syscall"

	"appfw/proxy/relay"
	"appfw/proxy/sniff"
)

// Reader reads the messages of a connection. While nothing comes it holds no buffer.
type Reader struct {
	From io.Reader
	buf  []byte
}

// WriteError is the error of where something was passed on to.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// Buffered is what was read and not taken.
func (r *Reader) Buffered() []byte { return r.buf }

// Take takes n bytes of what was read.
func (r *Reader) Take(n int) {
	if r.buf = r.buf[n:]; len(r.buf) == 0 {
		r.buf = nil
	}
}

// Fill reads more; io.EOF at the end.
func (r *Reader) Fill() error {
	if ready, ok := r.From.(syscall.Conn); ok {
		b, err := relay.ReadReady(ready, relay.SmallBuffer)
		if err != nil {
			return err
		}
		r.buf = append(r.buf, b.Data...)
		b.Release()
		return nil
	}
	var b [4 << 10]byte // of TLS, which has read it already
	n, err := r.From.Read(b[:])
	r.buf = append(r.buf, b[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// Request reads the head of the next request, and leaves it there. It is io.EOF if there
// is none.
func (r *Reader) Request() (*Request, error) {
	return read1(r, func() (*Request, error) { return ReadRequest(r.buf) })
}

// Response reads the head of a response, which it takes; io.EOF if there is none.
func (r *Reader) Response(method string) (*Response, error) {
	x, err := read1(r, func() (*Response, error) { return ReadResponse(r.buf, method) })
	if err == nil {
		r.Take(x.Size)
	}
	return x, err
}

func read1[T any](r *Reader, read func() (*T, error)) (*T, error) {
	for {
		x, err := read()
		if x != nil || err != nil {
			return x, err
		}
		if err := r.Fill(); err == io.EOF && len(r.buf) > 0 {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
	}
}

// bulk is from how many bytes on that are known to come they are moved at once.
const bulk = 64 << 10

// Pass passes a body on, as it comes. A body that breaks off is io.ErrUnexpectedEOF; one
// that ends with the connection ends there. A *WriteError is of where it goes.
func (r *Reader) Pass(to io.Writer, body *sniff.Body) error {
	for {
		n, done, err := body.Read(r.buf)
		if n > 0 {
			if _, werr := to.Write(r.buf[:n]); werr != nil {
				return &WriteError{werr}
			}
			r.Take(n)
		}
		if err != nil || done {
			return err
		}
		if m := body.Opaque(); m >= bulk && len(r.buf) == 0 {
			n, err := r.move(to, m)
			body.Skip(n)
			if err != nil {
				return err
			}
			if n < m {
				return r.end(body)
			}
			continue
		}
		if err := r.Fill(); err == io.EOF {
			return r.end(body)
		} else if err != nil {
			return err
		}
	}
}

func (r *Reader) end(body *sniff.Body) error {
	if body.Ends() {
		return nil
	}
	return io.ErrUnexpectedEOF
}

// move moves up to m bytes; fewer at the end.
func (r *Reader) move(to io.Writer, m int64) (int64, error) {
	w := &noting{to: to}
	n, err := io.Copy(w, io.LimitReader(r.From, m))
	if w.err != nil {
		err = &WriteError{w.err}
	}
	return n, err
}

// noting remembers that it is writing that failed.
type noting struct {
	to  io.Writer
	err error
}

func (w *noting) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	w.err = err
	return n, err
}

func (w *noting) ReadFrom(r io.Reader) (int64, error) {
	limited, ok := r.(*io.LimitedReader)
	if to, splices := w.to.(io.ReaderFrom); ok && splices {
		left := limited.N
		n, err := to.ReadFrom(limited)
		if err != nil && limited.N == left-n { // all that was read has been written: unknown which side
			return n, err
		}
		if err != nil {
			w.err = err
		}
		return n, err
	}
	b := relay.BufferPool{}.Get()
	defer relay.BufferPool{}.Put(b)
	return io.CopyBuffer(struct{ io.Writer }{w}, r, b)
}
