// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package fusestream

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"fsva/gofer/fusewire"
)

// namesMessage makes a request of the kernel's about node 5.
func namesMessage(opcode uint32, args []byte, names string) []byte {
	msg := make([]byte, fusewire.InHeaderSize, fusewire.InHeaderSize+len(args)+len(names))
	msg = append(append(msg, args...), names...)
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	binary.NativeEndian.PutUint32(msg[atOpcode:], opcode)
	put64(msg, atNode, 5)
	return msg
}

func TestUncertain(t *testing.T) {
	to7 := make([]byte, 16) // a rename's new directory
	put64(to7, 0, 7)
	for _, tc := range []struct {
		msg  []byte
		want []string
	}{
		{namesMessage(fusewire.OpUnlink, nil, "a\x00"), []string{"3 5 a", "2 5"}},
		{namesMessage(fusewire.OpSymlink, nil, "a\x00target\x00"), []string{"3 5 a", "2 5"}},
		{namesMessage(fusewire.OpCreate, make([]byte, 16), "a\x00"), []string{"3 5 a", "2 5"}},
		{namesMessage(fusewire.OpRename, to7[:8], "a\x00b\x00"), []string{"3 5 a", "2 5", "3 7 b", "2 7"}},
		{namesMessage(fusewire.OpRename2, to7, "a\x00b\x00"), []string{"3 5 a", "2 5", "3 7 b", "2 7"}},
		{namesMessage(fusewire.OpRename2, nil, ""), nil},
		{namesMessage(fusewire.OpWrite, make([]byte, 40), ""), nil},
	} {
		var got []string
		for _, n := range uncertain(tc.msg) {
			if int(u32(n, 0)) != len(n) || u64(n, 8) != 0 {
				t.Errorf("header of % x", n)
			}
			text := fmt.Sprint(u32(n, 4), " ", u64(n, fusewire.OutHeaderSize))
			if u32(n, 4) == fusewire.NoteInvalEntry {
				name := n[fusewire.OutHeaderSize+16:]
				if int(u32(n, fusewire.OutHeaderSize+8)) != len(name)-1 || name[len(name)-1] != 0 {
					t.Errorf("name of % x", n)
				}
				text += " " + string(name[:len(name)-1])
			}
			got = append(got, text)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("opcode %d: %q, want %q", opcodeOf(tc.msg), got, tc.want)
		}
	}
}
