package explicit

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// secret is a password, or a hash of one.
type secret struct {
	plain  [sha256.Size]byte          // its hash, so that comparing tells nothing of its length
	text   string                     // of the hash; "" if there is none
	hashed func(password string) bool // compares with the hash; nil if there is none
	// What hashed has taken once, and need not be hashed again, which takes long. Nil:
	// nothing yet.
	known *atomic.Pointer[[sha256.Size]byte]
}

// Bounds of argon2id: a file of users must not have appfw use up memory or time.
const (
	maxArgonKiB  = 256 << 10
	maxArgonTime = 20
)

var (
	errBcrypt = errors.New("it begins like a hash of bcrypt and is none")
	errArgon  = fmt.Errorf("it begins like a hash of argon2id and is none that can be used: $argon2id$v=19$m=KIB,t=TIMES,p=THREADS$SALT$HASH, with %d KiB and %d times at most", maxArgonKiB, maxArgonTime)
)

// parseSecret parses a password, or a hash by bcrypt ($2a$, $2b$, $2y$) or argon2id
// ($argon2id$, as of the PHC string format).
func parseSecret(s string) (x secret, err error) {
	switch {
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		if cost, err := bcrypt.Cost([]byte(s)); err != nil || len(s) != 60 || cost > 16 {
			return x, errBcrypt
		}
		x.hashed = func(password string) bool { return bcrypt.CompareHashAndPassword([]byte(s), []byte(password)) == nil }
	case strings.HasPrefix(s, "$argon2"):
		if x.hashed = argon(s); x.hashed == nil {
			return x, errArgon
		}
	default:
		x.plain = sha256.Sum256([]byte(s))
		return x, nil
	}
	x.text, x.known = s, new(atomic.Pointer[[sha256.Size]byte])
	return x, nil
}

// argon compares with a hash by argon2id (RFC 9106); nil if it is none.
func argon(s string) func(password string) bool {
	var version, memory, times, threads uint32
	part := strings.Split(s, "$")
	if len(part) != 6 || part[1] != "argon2id" || part[2] != "v=19" {
		return nil
	}
	if n, err := fmt.Sscanf(part[2]+","+part[3]+",", "v=%d,m=%d,t=%d,p=%d,", &version, &memory, &times, &threads); n != 4 || err != nil {
		return nil
	}
	salt, serr := base64.RawStdEncoding.DecodeString(part[4])
	hash, herr := base64.RawStdEncoding.DecodeString(part[5])
	if serr != nil || herr != nil || len(hash) < 16 || len(hash) > 128 || len(salt) < 8 || memory > maxArgonKiB || times == 0 || times > maxArgonTime || threads == 0 || threads > 64 {
		return nil
	}
	return func(password string) bool {
		key := argon2.IDKey([]byte(password), salt, times, memory, uint8(threads), uint32(len(hash)))
		return subtle.ConstantTimeCompare(key, hash) == 1
	}
}

// hashing bounds how many passwords are hashed at a time: who guesses them must not take
// what the others need.
var hashing = make(chan struct{}, max(1, runtime.NumCPU()/2))

// is tells whether a password is it.
func (x *secret) is(password string) bool {
	given := sha256.Sum256([]byte(password))
	if x.hashed == nil {
		return subtle.ConstantTimeCompare(x.plain[:], given[:]) == 1
	}
	if known := x.known.Load(); known != nil && subtle.ConstantTimeCompare(known[:], given[:]) == 1 {
		return true
	}
	hashing <- struct{}{}
	defer func() { <-hashing }()
	if !x.hashed(password) {
		return false
	}
	x.known.Store(&given)
	return true
}
