package sniff

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// quicVersion is what the versions of QUIC that are read differ in.
type quicVersion struct {
	number uint32
	salt   string // of the secrets of Initials
	label  string // begins the labels of the packet protection keys
	// initial is the type of an Initial in the long header; 0-RTT, Handshake
	// and Retry follow it, modulo 4.
	initial byte
}

// quicVersions: RFC 9001, 5.1 and 5.2; RFC 9369, 3.
var quicVersions = []quicVersion{
	{1, "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a", "quic ", 0},
	{0x6b3343cf, "\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9", "quicv2 ", 1},
}

// versionOf is the version with a number, or nil if it is not read.
func versionOf(number uint32) *quicVersion {
	i := slices.IndexFunc(quicVersions, func(v quicVersion) bool { return v.number == number })
	if i < 0 {
		return nil
	}
	return &quicVersions[i]
}

// The labels of the two sides' secrets (RFC 9001, 5.2).
const (
	clientSide = "client in"
	serverSide = "server in"
)

// packetKeys protect the Initials of one side.
type packetKeys struct {
	aead cipher.AEAD
	iv   []byte
	hp   cipher.Block // for the header
}

// initialKeys derives the keys of a side from the connection ID that the
// client's first Initial is sent to: no secret, all on the path can (RFC 9001,
// 5.2). It fails only where the system's policy forbids the algorithms.
func initialKeys(v *quicVersion, id, side string) (*packetKeys, error) {
	secret, err := hkdf.Extract(sha256.New, []byte(id), []byte(v.salt))
	expand := func(label string, length byte) (out []byte) { // RFC 8446, 7.1
		if err == nil {
			label = "tls13 " + label
			info := "\x00" + string([]byte{length, byte(len(label))}) + label + "\x00"
			out, err = hkdf.Expand(sha256.New, secret, info, int(length))
		}
		return out
	}
	secret = expand(side, sha256.Size)
	key, iv, hp := expand(v.label+"key", 16), expand(v.label+"iv", 12), expand(v.label+"hp", 16)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	k := &packetKeys{iv: iv}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	if k.hp, err = aes.NewCipher(hp); err != nil {
		return nil, err
	}
	return k, nil
}

// open takes the protection off a packet, whose number begins at an offset of
// its bytes and is near the one that is expected. The packet's bytes stay.
func (k *packetKeys) open(packet []byte, at int, expected uint64) (payload []byte, number uint64, ok bool) {
	if len(packet) < at+4+aes.BlockSize {
		return nil, 0, false // too short for a sample (RFC 9001, 5.4.2)
	}
	mask := k.mask(packet, at)
	header := slices.Clone(packet[:at+4])
	header[0] ^= mask[0] & 0x0f
	size := int(header[0]&3) + 1
	header = header[:at+size]
	for i := range size {
		header[at+i] ^= mask[1+i]
		number = number<<8 | uint64(header[at+i])
	}
	number = packetNumber(number, size, expected)
	payload, err := k.aead.Open(nil, k.nonce(number), packet[at+size:], header)
	return payload, number, err == nil
}

// seal protects a packet whose header ends with its number, in as many bytes as
// the first byte tells.
func (k *packetKeys) seal(header, payload []byte, number uint64) []byte {
	size := int(header[0]&3) + 1
	at := len(header) - size
	packet := k.aead.Seal(slices.Clone(header), k.nonce(number), payload, header)
	mask := k.mask(packet, at)
	packet[0] ^= mask[0] & 0x0f
	for i := range size {
		packet[at+i] ^= mask[1+i]
	}
	return packet
}

// mask is that of the header (RFC 9001, 5.4.3). The sample that it is made of
// begins four bytes after the packet number does, however long that is.
func (k *packetKeys) mask(packet []byte, at int) []byte {
	mask := make([]byte, aes.BlockSize)
	k.hp.Encrypt(mask, packet[at+4:])
	return mask
}

// nonce: RFC 9001, 5.3.
func (k *packetKeys) nonce(number uint64) []byte {
	nonce := slices.Clone(k.iv)
	tail := nonce[len(nonce)-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^number)
	return nonce
}

// packetNumber is the number nearest to the expected one that ends with the
// size bytes of low (RFC 9000, A.3).
func packetNumber(low uint64, size int, expected uint64) uint64 {
	window := uint64(1) << (8 * size)
	number := expected&^(window-1) | low
	switch {
	case number+window/2 <= expected && number+window < 1<<62:
		return number + window
	case number > expected+window/2 && number >= window:
		return number - window
	}
	return number
}
