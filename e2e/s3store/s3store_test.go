// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package s3store

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// The example of "Authenticating Requests: Using the Authorization Header" in Amazon's S3 API reference.
var example = Key{ID: "AKIAIOSFODNN7EXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}

func exampleRequest() *http.Request {
	r := httptest.NewRequest("GET", "http://examplebucket.s3.amazonaws.com/test.txt", nil)
	for name, value := range map[string]string{
		"Range":                "bytes=0-9",
		"X-Amz-Date":           "20130524T000000Z",
		"X-Amz-Content-Sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request," +
			"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
	} {
		r.Header.Set(name, value)
	}
	return r
}

func TestVerify(t *testing.T) {
	if err := verify(exampleRequest(), example); err != nil {
		t.Errorf("Amazon's example: %v", err)
	}
	for name, change := range map[string]func(r *http.Request, k *Key){
		"no authorization": func(r *http.Request, _ *Key) { r.Header.Del("Authorization") },
		"another method":   func(r *http.Request, _ *Key) { r.Method = "PUT" },
		"another path":     func(r *http.Request, _ *Key) { r.URL.Path = "/test.tx" },
		"a query":          func(r *http.Request, _ *Key) { r.URL.RawQuery = "acl" },
		"another range":    func(r *http.Request, _ *Key) { r.Header.Set("Range", "bytes=0-10") },
		"another key":      func(_ *http.Request, k *Key) { k.ID = "other" },
		"another secret":   func(_ *http.Request, k *Key) { k.Secret += "x" },
	} {
		r, k := exampleRequest(), example
		change(r, &k)
		if err := verify(r, k); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNew(t *testing.T) {
	s, err := New("data", example)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/data", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("a request without signature: status %d, want 403", w.Code)
	}
}
