// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package window

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sysDevices is where Linux lists PCI devices.
const sysDevices = "/sys/bus/pci/devices"

// PCI vendor and device of ivshmem, as sysfs writes them (QEMU's
// docs/specs/ivshmem-spec).
const (
	pciVendor = "0x1af4"
	pciDevice = "0x1110"
)

// Device is a window as its guest sees it: the shared memory of an ivshmem device.
// The host, which the guest has to trust, is the peer; nobody else can touch the
// memory. A Device is safe for concurrent use.
type Device struct {
	Memory
	// ID is what the guest shows to the gofer.
	ID ID
	// Path is the device in sysfs.
	Path string
}

// Devices maps the windows of this machine, which takes root. Shared memory
// devices that are not ours are passed over. With an error it returns those
// windows that could be mapped.
func Devices() ([]*Device, error) { return devicesIn(sysDevices) }

func devicesIn(dir string) ([]*Device, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a machine without PCI
	}
	if err != nil {
		return nil, err
	}
	var found []*Device
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !has(path, "vendor", pciVendor) || !has(path, "device", pciDevice) {
			continue
		}
		d, err := openDevice(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("window %s: %w", path, err))
		} else if d != nil {
			found = append(found, d)
		}
	}
	return found, errors.Join(errs...)
}

// has reports whether an attribute of a device has a value. A device that is gone
// has none.
func has(device, attribute, value string) bool {
	b, err := os.ReadFile(filepath.Join(device, attribute))
	return err == nil && strings.TrimSpace(string(b)) == value
}

// openDevice maps a device's memory; it returns nil if that is no window.
func openDevice(path string) (*Device, error) {
	// No driver is bound to the device, so nobody may have enabled it.
	if has(path, "enable", "0") {
		if err := os.WriteFile(filepath.Join(path, "enable"), []byte("1"), 0); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(filepath.Join(path, "resource2"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if CheckSize(info.Size()) != nil {
		return nil, nil
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	header := bytes.Clone(mem[:idAt+len(ID{})])
	if !bytes.HasPrefix(header, []byte(magic)) || binary.LittleEndian.Uint64(header[sizeAt:]) != uint64(len(mem)) {
		return nil, unix.Munmap(mem)
	}
	return &Device{Memory: Memory{mem}, ID: ID(header[idAt:]), Path: path}, nil
}

// Close unmaps the window. Nothing of it may be used afterwards.
func (d *Device) Close() error { return unix.Munmap(d.mem) }
