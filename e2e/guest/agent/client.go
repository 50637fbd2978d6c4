// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrGone is in the error of requests whose guest ended.
var ErrGone = errors.New("the guest's agent is gone")

// Client is the host's end. It may be used by many goroutines.
type Client struct {
	// Hello is what the guest's end said. Immutable.
	Hello Hello

	sendMu sync.Mutex // guards the encoder

	requests *json.Encoder // guarded by sendMu

	mu      sync.Mutex
	nextID  uint64                   // guarded by mu
	waiting map[uint64]chan Response // guarded by mu; nil when the stream has ended
	err     error                    // guarded by mu; why it has
}

// NewClient waits for the guest's Hello. The caller bounds that, and everything after it, by closing the stream.
func NewClient(stream io.ReadWriter) (*Client, error) {
	c := &Client{requests: json.NewEncoder(stream), waiting: map[uint64]chan Response{}}
	dec := json.NewDecoder(stream)
	if err := dec.Decode(&c.Hello); err != nil {
		return nil, fmt.Errorf("hello of the guest's agent: %w", err)
	}
	go c.receive(dec)
	return c, nil
}

// receive delivers responses until the stream ends.
func (c *Client) receive(dec *json.Decoder) {
	for {
		var resp Response
		err := dec.Decode(&resp)
		c.mu.Lock()
		if err != nil {
			c.err = fmt.Errorf("%w: %w", ErrGone, err)
			for _, ch := range c.waiting {
				close(ch)
			}
			c.waiting = nil
			c.mu.Unlock()
			return
		}
		ch := c.waiting[resp.ID]
		delete(c.waiting, resp.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- resp
		}
	}
}

// Do has a request served and returns its outcome. It waits for the request's Timeout and a while longer.
func (c *Client) Do(req Request) (Response, error) {
	ch := make(chan Response, 1)
	c.mu.Lock()
	if c.waiting == nil {
		defer c.mu.Unlock()
		return Response{}, c.err
	}
	c.nextID++
	req.ID = c.nextID
	c.waiting[req.ID] = ch
	c.mu.Unlock()

	c.sendMu.Lock()
	err := c.requests.Encode(req)
	c.sendMu.Unlock()
	if err != nil {
		c.mu.Lock()
		delete(c.waiting, req.ID)
		c.mu.Unlock()
		return Response{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	const grace = 20 * time.Second
	select {
	case resp, ok := <-ch:
		if !ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			return Response{}, c.err
		}
		if resp.Error != "" {
			return resp, errors.New(resp.Error)
		}
		return resp, nil
	case <-time.After(req.Timeout + grace):
		return Response{}, fmt.Errorf("the guest has not answered %v after the time for the command", grace)
	}
}
