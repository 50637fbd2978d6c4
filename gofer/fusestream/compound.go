// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"fmt"
	"net"

	"fsva/gofer/fusewire"
)

const (
	// openedHandle stands, in a compound's request, for the handle of the last file or
	// directory that the compound has opened. The file system never returns it.
	openedHandle = 1<<64 - 1
	// maxCompound bounds the requests of a compound.
	maxCompound = 256
)

// inCompound reports whether an operation may be in a compound: those with which files
// and directories are read, from open to release.
func inCompound(opcode uint32) bool {
	switch opcode {
	case fusewire.OpOpen, fusewire.OpOpenDir, fusewire.OpRead, fusewire.OpReadDirPlus, fusewire.OpRelease, fusewire.OpReleaseDir:
		return true
	}
	return false
}

// splitCompound returns the requests of a compound and the room that their replies take.
func splitCompound(body []byte) (msgs [][]byte, room int, err error) {
	for len(body) > 0 {
		if len(body) < fusewire.InHeaderSize || len(msgs) == maxCompound {
			return nil, 0, fmt.Errorf("%w: compound", errFrame)
		}
		n := u32(body, 0)
		if n < fusewire.InHeaderSize || uint64(n) > uint64(len(body)) || !inCompound(opcodeOf(body)) {
			return nil, 0, fmt.Errorf("%w: operation %d, of %d bytes, in a compound", errFrame, opcodeOf(body), n)
		}
		msg := body[:n:n]
		msgs, body = append(msgs, msg), body[n:]
		if room += replyRoom(msg); room > maxMessage {
			return nil, 0, fmt.Errorf("%w: compound with replies of more than %d bytes", errFrame, maxMessage)
		}
	}
	return msgs, room, nil
}

// compound begins to carry the requests of a compound out, one after the other. Their
// replies go back in one frame. body is not used by others.
func (c *serverConn) compound(body []byte) error {
	msgs, room, err := splitCompound(body)
	if err != nil {
		return err
	}
	cost := len(body) + room
	if !c.budget.take(cost) {
		return net.ErrClosed
	}
	c.wg.Go(func() {
		defer c.budget.giveBack(cost)
		if err := c.handleCompound(msgs, room); err != nil && err != errGone {
			c.cutOff(err)
		}
	})
	return nil
}

// handleCompound carries the requests out and sends the replies.
func (c *serverConn) handleCompound(msgs [][]byte, room int) error {
	buf := make([]byte, headerSize+room)
	end := headerSize
	handle := uint64(openedHandle)
	for _, msg := range msgs {
		opens := opcodeOf(msg) == fusewire.OpOpen || opcodeOf(msg) == fusewire.OpOpenDir
		if !opens && hasArgs(msg, 8) && u64(msg, atArg) == openedHandle {
			put64(msg, atArg, handle)
		}
		reply := buf[end : end+replyRoom(msg)]
		n, err := c.session.Handle([][]byte{msg}, [][]byte{reply})
		if err != nil {
			return err
		}
		if opens {
			handle = openedHandle
			if n >= fusewire.OutHeaderSize+openOutSize && replyError(reply) == 0 {
				handle = u64(reply, fusewire.OutHeaderSize)
			}
		}
		end += n
	}
	header{length: end - headerSize, kind: kindCompound}.put(buf)
	return c.write(buf[:end])
}
