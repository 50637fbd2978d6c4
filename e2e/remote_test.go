// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsva/e2e/harness"
	"fsva/e2e/s3store"
	"fsva/gofer/conformance"
)

// writeSecret makes a file that only root may read.
func writeSecret(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// keyLines returns what a private key's file has between its first and its last line.
func keyLines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) < 3 {
		t.Fatalf("%s is not a private key", path)
	}
	return lines[1 : len(lines)-1]
}

// freePort returns a TCP port of the loopback interface that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	return port
}

// s3Source is an empty bucket of a store on the loopback interface.
func s3Source(t *testing.T, dir string, _ conformance.Tree) source {
	harness.NeedCommand(t, "s3fs", "s3fs")
	key := s3store.Key{ID: "FSVATEST", Secret: rand.Text()}
	store, err := s3store.New("bucket", key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(store)
	t.Cleanup(srv.Close)
	credentials, tmp := filepath.Join(dir, "credentials"), filepath.Join(dir, "tmp")
	writeSecret(t, credentials, key.ID+":"+key.Secret+"\n")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	return source{
		flags: []string{"--source", "bucket:/", "--network", "host", "--option", "credentials=" + credentials,
			"--option", "url=" + srv.URL, "--option", "path-style"},
		native: []string{"s3fs", "bucket:/", "MNT", "-f", "-o", "allow_other,default_permissions,use_xattr,complement_stat", "-o", "tmpdir=" + tmp,
			"-o", "passwd_file=" + credentials, "-o", "url=" + srv.URL, "-o", "use_path_request_style", "-o", "stat_cache_expire=60"},
		secrets: []string{key.Secret},
	}
}

// webdavSource is an empty directory behind a WebDAV server on the loopback interface, which lets one user in.
func webdavSource(t *testing.T, dir string, _ conformance.Tree) source {
	rclone := harness.NeedCommand(t, "rclone", "rclone")
	password, port := rand.Text(), freePort(t)
	data, cache := filepath.Join(dir, "data"), filepath.Join(dir, "cache")
	for _, d := range []string{data, cache} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	obscure := exec.Command(rclone, "obscure", "-")
	obscure.Stdin = strings.NewReader(password)
	obscured, err := obscure.Output()
	if err != nil {
		t.Fatal(err)
	}
	stored := strings.TrimSpace(string(obscured))
	config, users := filepath.Join(dir, "rclone.conf"), filepath.Join(dir, "users")
	writeSecret(t, config, fmt.Sprintf("[store]\ntype = webdav\nurl = http://127.0.0.1:%s\nvendor = other\nuser = fsva\npass = %s\n", port, stored))
	hash := sha1.Sum([]byte(password)) // of the forms that rclone takes, the one without a library
	writeSecret(t, users, "fsva:{SHA}"+base64.StdEncoding.EncodeToString(hash[:])+"\n")
	serve := exec.Command(rclone, "serve", "webdav", data, "--addr=127.0.0.1:"+port, "--htpasswd="+users)
	serve.Env = append(os.Environ(), "RCLONE_CONFIG=/dev/null")
	harness.Background(t, func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}, serve)
	return source{
		flags: []string{"--source", "store:", "--network", "host", "--option", "config=" + config},
		native: []string{"rclone", "mount", "store:", "MNT", "--config=" + config, "--allow-other", "--default-permissions",
			"--dir-perms=0777", "--file-perms=0666", "--umask=0", "--cache-dir=" + cache, "--vfs-cache-mode=writes", "--vfs-write-back=5s"},
		secrets: []string{password, stored},
	}
}

// encfsSource is an encrypted directory with nothing in it.
func encfsSource(t *testing.T, dir string, _ conformance.Tree) source {
	bin := harness.NeedCommand(t, "encfs", "encfs")
	harness.NeedKernelFUSE(t)
	password, pass := rand.Text(), filepath.Join(dir, "pass")
	writeSecret(t, pass, password+"\n")
	cipher, plain := filepath.Join(dir, "cipher"), filepath.Join(dir, "plain")
	for _, d := range []string{cipher, plain} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ask := "--extpass=cat " + pass
	// Only a mount makes one.
	harness.Must(t, bin, "--standard", ask, cipher, plain)
	if err := unix.Unmount(plain, 0); err != nil {
		t.Fatal(err)
	}
	return source{
		flags:   []string{"--source", cipher, "--option", "passfile=" + pass},
		native:  []string{bin, "-f", ask, cipher, "MNT", "--", "-o", "allow_other,default_permissions"},
		secrets: []string{password},
	}
}
