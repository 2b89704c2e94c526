package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"log"
	"os"
	"path/filepath"
	"time"
)

// The algorithms that are measured. Of RSA a key of 2048 bits, as most identity providers have.
var algorithms = []string{"ES256", "RS256", "HS256", "EdDSA"}

// signer signs tokens of one algorithm.
type signer struct {
	algorithm, id string
	secret        []byte
	private       crypto.Signer
}

// makeKeys writes, for each algorithm, `NAME.key`, by which this program signs, and `NAME.pem` or `NAME.txt`, by which mproxy
// verifies.
func makeKeys(arguments []string) map[string]any {
	flags := flag.NewFlagSet("keys", flag.ExitOnError)
	folder := flags.String("folder", ".", "where they are written")
	check(flags.Parse(arguments))
	for _, algorithm := range algorithms {
		s := newSigner(algorithm, "")
		path := filepath.Join(*folder, algorithm)
		if s.private == nil {
			check(os.WriteFile(path+".key", s.secret, 0o600))
			check(os.WriteFile(path+".txt", s.secret, 0o644))
			continue
		}
		private, err := x509.MarshalPKCS8PrivateKey(s.private)
		check(err)
		check(os.WriteFile(path+".key", private, 0o600))
		public, err := x509.MarshalPKIXPublicKey(s.private.Public())
		check(err)
		check(os.WriteFile(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644))
	}
	return map[string]any{"algorithms": algorithms}
}

func newSigner(algorithm, id string) *signer {
	s := &signer{algorithm: algorithm, id: id}
	var err error
	switch algorithm {
	case "ES256":
		s.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "EdDSA":
		_, s.private, err = ed25519.GenerateKey(rand.Reader)
	case "HS256":
		s.secret = []byte(rand.Text() + rand.Text())
	default:
		log.Fatalf("no algorithm %s", algorithm)
	}
	check(err)
	return s
}

func readSigner(folder, algorithm string) *signer {
	bytes, err := os.ReadFile(filepath.Join(folder, algorithm+".key"))
	check(err)
	if algorithm == "HS256" {
		return &signer{algorithm: algorithm, secret: bytes}
	}
	private, err := x509.ParsePKCS8PrivateKey(bytes)
	check(err)
	return &signer{algorithm: algorithm, private: private.(crypto.Signer)}
}

// token is for a client of this name, until then.
func (s *signer) token(name string, until time.Time) string {
	header := map[string]string{"alg": s.algorithm, "typ": "JWT"}
	if s.id != "" {
		header["kid"] = s.id
	}
	claims := map[string]any{"sub": name, "exp": until.Unix(), "tenant": "acme", "roles": []string{"device", "sensor"}}
	message := part(header) + "." + part(claims)
	return message + "." + base64.RawURLEncoding.EncodeToString(s.sign([]byte(message)))
}

func (s *signer) sign(message []byte) []byte {
	digest := sha256.Sum256(message)
	var signature []byte
	var err error
	switch key := s.private.(type) {
	case *ecdsa.PrivateKey:
		// Two numbers of 32 bytes, and not the ASN.1 of them (RFC 7518, 3.4).
		r, s, failed := ecdsa.Sign(rand.Reader, key, digest[:])
		signature, err = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), failed
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	case ed25519.PrivateKey:
		signature = ed25519.Sign(key, message)
	default:
		hash := hmac.New(sha256.New, s.secret)
		hash.Write(message)
		signature = hash.Sum(nil)
	}
	check(err)
	return signature
}

// jwk is its public part in a key set (RFC 7517). Only of P-256.
func (s *signer) jwk() map[string]string {
	point, err := s.private.Public().(*ecdsa.PublicKey).Bytes()
	check(err)
	text := base64.RawURLEncoding.EncodeToString
	return map[string]string{"kty": "EC", "crv": "P-256", "kid": s.id, "use": "sig", "x": text(point[1:33]), "y": text(point[33:])}
}

func part(value any) string {
	text, err := json.Marshal(value)
	check(err)
	return base64.RawURLEncoding.EncodeToString(text)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
