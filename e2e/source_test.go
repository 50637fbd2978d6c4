// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsva/e2e/harness"
)

// writeZip packs a directory, modes and times included.
func writeZip(dir, archive string) error {
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	w := zip.NewWriter(out)
	err = filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		h, err := zip.FileInfoHeader(fi)
		if err != nil {
			return err
		}
		h.Name, err = filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			h.Name += "/"
		} else {
			h.Method = zip.Deflate
		}
		e, err := w.CreateHeader(h)
		if err != nil || !fi.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(e, f)
		return err
	})
	return errors.Join(err, w.Close(), out.Close())
}

// sshd is an ssh server on the loopback interface that lets one key in, for sftp only.
type sshd struct {
	port, key, knownHosts, share string
}

// startSSHD starts one with its files in dir; the test's clean-up stops it.
func startSSHD(t *testing.T, dir string) sshd {
	t.Helper()
	bin := harness.NeedCommand(t, "sshd", "openssh-server")
	keygen := harness.NeedCommand(t, "ssh-keygen", "openssh-client")
	s := sshd{port: freePort(t), key: filepath.Join(dir, "key"), knownHosts: filepath.Join(dir, "known_hosts"), share: filepath.Join(dir, "share")}
	hostKey := filepath.Join(dir, "host_key")
	for _, k := range []string{s.key, hostKey} {
		harness.Must(t, keygen, "-q", "-t", "ed25519", "-N", "", "-f", k)
	}
	pub, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "sshd_config")
	text := strings.Join([]string{
		"ListenAddress 127.0.0.1:" + s.port, "HostKey " + hostKey, "AuthorizedKeysFile " + s.key + ".pub", "PidFile none",
		"PermitRootLogin prohibit-password", "PasswordAuthentication no", "UsePAM no", "StrictModes no",
		"Subsystem sftp internal-sftp", "ForceCommand internal-sftp", "LogLevel ERROR", "MaxStartups 100", "",
	}, "\n")
	if err := errors.Join(
		os.Mkdir(s.share, 0o755),
		os.WriteFile(s.knownHosts, fmt.Appendf(nil, "[127.0.0.1]:%s %s", s.port, pub), 0o644),
		os.WriteFile(config, []byte(text), 0o600),
		os.MkdirAll("/run/sshd", 0o755), // sshd insists on its privilege separation directory
	); err != nil {
		t.Fatal(err)
	}
	harness.Background(t, func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+s.port, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}, exec.Command(bin, "-D", "-e", "-f", config))
	return s
}
