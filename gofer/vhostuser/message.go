// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Requests of the front end, with the names and numbers of the vhost-user specification. They and all of their fields
// are in the byte order of the machine.
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqResetOwner          = 4
	reqSetMemTable         = 5
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqGetQueueNum         = 17
	reqSetVringEnable      = 18
	reqGetConfig           = 24
	reqSetConfig           = 25
	reqGetMaxMemSlots      = 36
	reqAddMemReg           = 37
	reqRemMemReg           = 38
)

const (
	headerSize = 12
	// maxPayload is more than any request that we know needs: a configuration space of 256 bytes, or 8 memory regions.
	maxPayload = 1024
	// maxFDs is what SET_MEM_TABLE may bring.
	maxFDs = 8

	flagVersion     = 0x1
	flagVersionMask = 0x3
	flagReply       = 0x4
	flagNeedReply   = 0x8
)

var order = binary.NativeEndian

// message is one request.
type message struct {
	request uint32
	flags   uint32
	payload []byte
	// fds are owned by the message, until takeFD.
	fds []int
}

// takeFD gives up ownership of the first descriptor.
func (m *message) takeFD() int {
	fd := m.fds[0]
	m.fds = m.fds[1:]
	return fd
}

func (m *message) closeFDs() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// u64 returns a payload that is one number.
func (m *message) u64() (uint64, error) {
	if len(m.payload) != 8 {
		return 0, fmt.Errorf("request %d with %d bytes instead of 8", m.request, len(m.payload))
	}
	return order.Uint64(m.payload), nil
}

// receive reads one request. io.EOF means that there is none, because the VMM has hung up.
func receive(sock *net.UnixConn) (m *message, err error) {
	m = &message{}
	defer func() {
		if err != nil {
			m.closeFDs()
		}
	}()
	var header [headerSize]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for got := 0; got < headerSize; {
		n, oobn, flags, _, err := sock.ReadMsgUnix(header[got:], oob)
		if oobn > 0 {
			fds, err := parseFDs(oob[:oobn])
			m.fds = append(m.fds, fds...)
			if err != nil {
				return m, err
			}
		}
		if flags&unix.MSG_CTRUNC != 0 || len(m.fds) > maxFDs {
			return m, fmt.Errorf("message with more than %d descriptors", maxFDs)
		}
		if errors.Is(err, io.EOF) && got == 0 {
			return m, io.EOF
		}
		if err != nil {
			return m, fmt.Errorf("header of a request: %w", err)
		}
		got += n
	}
	m.request = order.Uint32(header[0:])
	m.flags = order.Uint32(header[4:])
	size := order.Uint32(header[8:])
	if m.flags&flagVersionMask != flagVersion || m.flags&flagReply != 0 {
		return m, fmt.Errorf("request %d with flags %#x", m.request, m.flags)
	}
	if size > maxPayload {
		return m, fmt.Errorf("request %d with %d bytes", m.request, size)
	}
	m.payload = make([]byte, size)
	// Descriptors that come with the payload are dropped by the kernel.
	if _, err := io.ReadFull(sock, m.payload); err != nil {
		return m, fmt.Errorf("request %d: %w", m.request, err)
	}
	return m, nil
}

// parseFDs returns the descriptors of control messages, also if it fails: the caller closes them.
func parseFDs(oob []byte) ([]int, error) {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range cmsgs {
		if cmsgs[i].Header.Level != unix.SOL_SOCKET || cmsgs[i].Header.Type != unix.SCM_RIGHTS {
			err = errors.New("control message without descriptors")
			continue
		}
		more, perr := unix.ParseUnixRights(&cmsgs[i])
		if perr != nil {
			err = fmt.Errorf("control message: %w", perr)
			continue
		}
		fds = append(fds, more...)
	}
	return fds, err
}

// reply answers m.
func reply(w io.Writer, m *message, payload []byte) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	order.PutUint32(b[0:], m.request)
	order.PutUint32(b[4:], flagVersion|flagReply)
	order.PutUint32(b[8:], uint32(len(payload)))
	if _, err := w.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("reply to request %d: %w", m.request, err)
	}
	return nil
}

// memRegion is a memory region as it is on the wire: 32 bytes.
type memRegion struct{ guest, size, user, offset uint64 }

const memRegionSize = 32

func parseMemRegion(b []byte) memRegion {
	return memRegion{
		guest:  order.Uint64(b[0:]),
		size:   order.Uint64(b[8:]),
		user:   order.Uint64(b[16:]),
		offset: order.Uint64(b[24:]),
	}
}

// parseMemTable returns the regions of SET_MEM_TABLE: there is one descriptor for each.
func (m *message) parseMemTable() ([]memRegion, error) {
	if len(m.payload) < 8 {
		return nil, fmt.Errorf("memory table of %d bytes", len(m.payload))
	}
	n := int(order.Uint32(m.payload))
	b := m.payload[8:]
	if n > maxFDs || len(b) < n*memRegionSize || len(m.fds) != n {
		return nil, fmt.Errorf("memory table of %d regions in %d bytes with %d descriptors", n, len(m.payload), len(m.fds))
	}
	regions := make([]memRegion, n)
	for i := range regions {
		regions[i] = parseMemRegion(b[i*memRegionSize:])
	}
	return regions, nil
}

// parseMemReg returns the region of ADD_MEM_REG and REM_MEM_REG.
func (m *message) parseMemReg() (memRegion, error) {
	if len(m.payload) != 8+memRegionSize {
		return memRegion{}, fmt.Errorf("request %d with %d bytes", m.request, len(m.payload))
	}
	return parseMemRegion(m.payload[8:]), nil
}

// parseVringState returns the index and number of SET_VRING_NUM and the like.
func (m *message) parseVringState() (index, num uint32, err error) {
	if len(m.payload) != 8 {
		return 0, 0, fmt.Errorf("request %d with %d bytes instead of 8", m.request, len(m.payload))
	}
	return order.Uint32(m.payload), order.Uint32(m.payload[4:]), nil
}

func (m *message) parseVringAddr() (index uint32, at ringAddrs, err error) {
	if len(m.payload) != 40 {
		return 0, at, fmt.Errorf("request %d with %d bytes instead of 40", m.request, len(m.payload))
	}
	// The flags at 4 ask for a log of the used ring, the address of which is at 32; logging isn't offered.
	at.desc = order.Uint64(m.payload[8:])
	at.used = order.Uint64(m.payload[16:])
	at.avail = order.Uint64(m.payload[24:])
	return order.Uint32(m.payload), at, nil
}

// parseVringFD returns the index of SET_VRING_KICK and the like. There is a descriptor, or the message says that there
// is none.
func (m *message) parseVringFD() (index uint32, has bool, err error) {
	v, err := m.u64()
	if err != nil {
		return 0, false, err
	}
	has = v&0x100 == 0
	if v&^0x1ff != 0 || has != (len(m.fds) == 1) || len(m.fds) > 1 {
		return 0, false, fmt.Errorf("request %d for queue %#x with %d descriptors", m.request, v, len(m.fds))
	}
	return uint32(v & 0xff), has, nil
}
