package internet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is a certificate authority.
type authority struct {
	file        string // its certificate, PEM
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// newAuthority makes an authority with its certificate in dir.
func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template("appfw test CA")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{filepath.Join(dir, "ca.pem"), certificate, key}
	return a, os.WriteFile(a.file, block("CERTIFICATE", der), 0o644)
}

// issue returns a server certificate for names, domain names or addresses, and its key, both PEM.
func (a *authority) issue(names []string) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := template("server")
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", privateDER), nil
}

// template is a certificate valid for a day.
func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(rand.Text())),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// CAFile is the certificate, PEM, of the CA that the simulated host's programs trust.
func (n *Internet) CAFile() string { return n.ca.file }

// Certificate makes a server certificate of the CA for names, domain names or addresses, as PEM files (the key
// readable by root) and for use in Go.
func (n *Internet) Certificate(names ...string) (certFile, keyFile string, cert tls.Certificate) {
	n.t.Helper()
	certPEM, keyPEM, err := n.ca.issue(names)
	if err != nil {
		n.t.Fatal("internet: ", err)
	}
	id := n.serial.Add(1)
	certFile, keyFile = n.file(fmt.Sprintf("cert-%d.pem", id)), n.file(fmt.Sprintf("key-%d.pem", id))
	if err := os.WriteFile(certFile, certPEM, 0o644); err != nil {
		n.t.Fatal("internet: ", err)
	}
	if err := os.WriteFile(keyFile, keyPEM, 0o600); err != nil {
		n.t.Fatal("internet: ", err)
	}
	return certFile, keyFile, must(tls.X509KeyPair(certPEM, keyPEM))(n.t)
}
