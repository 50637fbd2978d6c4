// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package s3store is an S3 store for tests: one bucket in memory, and one key that gets in. It checks the signature of
// every request, so that a client which lost the secret, or signed with another, gets nothing.
//
// Its clients are the test's own FS servers, on the loopback interface. It does not check dates, nor that bodies have
// the hash that was signed.
package s3store

import (
	"net/http"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Key is what a client signs its requests with.
type Key struct{ ID, Secret string }

// New returns a server of one empty bucket, addressed as /BUCKET/OBJECT. Requests without a valid signature (version 4)
// of key are answered with 403.
func New(bucket string, key Key) (http.Handler, error) {
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		return nil, err
	}
	store := gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := verify(r, key); err != nil {
			w.WriteHeader(http.StatusForbidden)
			// The client may be gone; it is told nothing else.
			_, _ = w.Write([]byte(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>SignatureDoesNotMatch</Code><Message>` + err.Error() + `</Message></Error>`))
			return
		}
		store.ServeHTTP(w, r)
	}), nil
}
