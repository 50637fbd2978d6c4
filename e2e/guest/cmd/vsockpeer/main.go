// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Vsockpeer runs package vsockpeer in a guest.
//
//	vsockpeer serve ADDR                               until it is killed; prints a line when it listens
//	vsockpeer upload|download ADDR BYTES STREAMS       all at once; prints MB/s
//	vsockpeer ping ADDR N                              prints the median round trip
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"fsva/e2e/guest/vsockpeer"
	"fsva/gofer/vsock"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vsockpeer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("want a command and an address")
	}
	addr, err := vsock.ParseAddr(args[1])
	if err != nil {
		return err
	}
	var numbers []int
	for _, a := range args[2:] {
		n, err := strconv.Atoi(a)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a positive number", a)
		}
		numbers = append(numbers, n)
	}
	switch {
	case args[0] == "serve" && len(numbers) == 0:
		l, err := vsock.Listen(addr, vsock.Options{})
		if err != nil {
			return err
		}
		fmt.Println("listening")
		return vsockpeer.Serve(l, func(err error) { fmt.Fprintln(os.Stderr, "vsockpeer:", err) })
	case args[0] == "upload" && len(numbers) == 2:
		return streams(addr, vsockpeer.Upload, numbers[0], numbers[1])
	case args[0] == "download" && len(numbers) == 2:
		return streams(addr, vsockpeer.Download, numbers[0], numbers[1])
	case args[0] == "ping" && len(numbers) == 1:
		c, err := vsock.Dial(context.Background(), addr, vsock.Options{})
		if err != nil {
			return err
		}
		defer c.Close()
		median, err := vsockpeer.Ping(c, numbers[0])
		fmt.Println(median)
		return err
	}
	return fmt.Errorf("%q is not a command", args)
}

// streams has n bytes go over each of count connections.
func streams(addr vsock.Addr, transfer func(vsockpeer.Conn, uint64) error, n, count int) error {
	start := time.Now()
	done := make(chan error, count)
	for range count {
		go func() {
			c, err := vsock.Dial(context.Background(), addr, vsock.Options{})
			if err == nil {
				err = errors.Join(transfer(c, uint64(n)), c.Close())
			}
			done <- err
		}()
	}
	var errs error
	for range count {
		errs = errors.Join(errs, <-done)
	}
	fmt.Printf("%.0f MB/s\n", float64(n)*float64(count)/time.Since(start).Seconds()/1e6)
	return errs
}
