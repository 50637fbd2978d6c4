// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package s3store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const algorithm = "AWS4-HMAC-SHA256"

// verify checks that the request was signed with key, as AWS's signature version 4 for S3 says.
func verify(r *http.Request, key Key) error {
	rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm+" ")
	if !ok {
		return errors.New("no " + algorithm + " authorization")
	}
	fields := map[string]string{}
	for f := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(f), "=")
		fields[name] = value
	}
	id, scope, _ := strings.Cut(fields["Credential"], "/")
	parts := strings.Split(scope, "/") // date, region, service, aws4_request
	if id != key.ID || len(parts) != 4 {
		return errors.New("unknown key")
	}
	sum := sha256.Sum256([]byte(canonical(r, fields["SignedHeaders"])))
	text := strings.Join([]string{algorithm, r.Header.Get("X-Amz-Date"), scope, hex.EncodeToString(sum[:])}, "\n")
	signing := []byte("AWS4" + key.Secret)
	for _, p := range parts {
		signing = mac(signing, p)
	}
	if want := hex.EncodeToString(mac(signing, text)); want != fields["Signature"] {
		return errors.New("wrong signature")
	}
	return nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonical is the form of the request that is signed.
func canonical(r *http.Request, signedHeaders string) string {
	var query []string
	for name, values := range r.URL.Query() {
		for _, v := range values {
			query = append(query, escape(name)+"="+escape(v))
		}
	}
	slices.Sort(query)
	var headers strings.Builder
	for name := range strings.SplitSeq(signedHeaders, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" { // net/http keeps it elsewhere
			value = r.Host
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	path := strings.ReplaceAll(escape(r.URL.Path), "%2F", "/")
	return strings.Join([]string{
		r.Method, path, strings.Join(query, "&"), headers.String(), signedHeaders, r.Header.Get("X-Amz-Content-Sha256"),
	}, "\n")
}

// escape is url.QueryEscape with a space as %20, as the signature wants it.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
