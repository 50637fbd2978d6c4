// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package appliance

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const goodManifest = `name = "demo"
description = "a demonstration"
command = ["server", "-f", "${options}", "${source}", "${mountpoint}"]
mount = "helper"
isolation = "gvisor"
coherence = "exclusive"
source = "file"
root = "host"
capabilities = ["CHOWN"]

[env]
MODE = "quiet"

[[option]]
name = "offset"
description = "where it starts"
type = "int"
min = 0
default = "7"
args = ["-o", "offset=${value}"]

[[option]]
name = "how"
description = "how it is done"
type = "enum"
values = ["well", "badly"]
args = ["--how=${value}"]
`

func TestParse(t *testing.T) {
	m, err := Parse("demo.toml", []byte(goodManifest))
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "demo" || m.Mount != MountHelper || len(m.Options) != 2 || *m.Options[0].Min != 0 || m.Env["MODE"] != "quiet" {
		t.Errorf("got %+v", m)
	}
}

// TestParseMistakes replaces one text of a good manifest and checks the whole error. An empty one means that there is none.
func TestParseMistakes(t *testing.T) {
	for _, tc := range []struct{ old, new, want string }{
		{"mount =", "mounts =", `4:1: unknown key "mounts"; did you mean mount?`},
		{"min = 0", "mim = 0", `18:1: unknown key "option.mim"; did you mean min?`},
		{`mount = "helper"`, `mount = 7`, `4:9: cannot decode TOML integer into struct field appliance.Manifest.Mount of type string`},
		{`mount = "helper"`, `mount = "helper`, `4:16: basic strings cannot have new lines`},
		{`mount = "helper"`, `mount = "fusermount"`, `4:1: mount "fusermount" is not one of fd, helper, syscall`},
		{`mount = "helper"`, `mount = "helpr"`, `4:1: mount "helpr" is not one of fd, helper, syscall; did you mean helper?`},
		{"mount = \"helper\"\n", "", `1:1: "mount" is missing: one of fd, helper, syscall`},
		{`"demo"`, `"Demo"`, `1:1: name "Demo" must be lower-case letters, digits and dashes, at most 63`},
		{`name = "demo"`, ``, `1:1: "name" is missing`},
		{`source = "file"`, `source = "vm"`, `7:1: isolation "vm" and source "vm" go together`},
		{"isolation = \"gvisor\"\ncoherence = \"exclusive\"\nsource = \"file\"", "isolation = \"vm\"\ncoherence = \"exclusive\"\nsource = \"vm\"", `8:1: "root" has no meaning with isolation "vm"`},
		{"isolation = \"gvisor\"\ncoherence = \"exclusive\"\nsource = \"file\"\nroot = \"host\"\ncapabilities = [\"CHOWN\"]", "isolation = \"vm\"\ncoherence = \"exclusive\"\nsource = \"vm\"\nimage.packages = [\"a1\"]", `8:1: "image" has no meaning with isolation "vm"`},
		{`source = "file"`, "source = \"directory\"\nsource-suffixes = [\".x\"]", `8:1: "source-suffixes" needs source = "file"`},
		{`root = "host"`, "root = \"host\"\nread-only-args = [\"${source}\"]", `9:1: read-only-args[0]: unknown variable ${source}: none may be used here`},
		{`MODE = "quiet"`, `MODE = "a\u0000b"`, `12:1: env MODE contains a NUL`},
		{`name = "offset"`, `name = "Offset"`, `15:1: option name "Offset" must be lower-case letters, digits and dashes`},
		{`description = "where it starts"`, `description = "where\nit starts"`, `16:1: option "offset": "description" must be one line of text`},
		{"type = \"int\"", `type = "string"`, `17:1: option "offset": "min" and "max" belong to type int`},
		{"type = \"int\"\nmin = 0", `type = "size"`, ``},
		{"type = \"int\"\nmin = 0", `type = "mode"`, ``},
		{"type = \"int\"\nmin = 0\ndefault = \"7\"", "type = \"mode\"\ndefault = \"8\"", `18:1: option "offset": default "8" is not permission bits in octal such as 022`},
		{"type = \"int\"\nmin = 0\ndefault = \"7\"", "type = \"size\"\ndefault = \"0\"", `18:1: option "offset": default "0" is not a number of bytes such as 512M`},
		{"type = \"int\"\nmin = 0", `type = "file"`, `18:1: option "offset": a file has no default`},
		{`offset=${value}"]`, "offset=${value}\"]\nwritable = true", `21:1: option "offset": "writable" belongs to type dir`},
		{`offset=${value}"]`, "offset=${value}\"]\nvalue-args = {a = []}", `21:1: option "offset": "value-args" belong to type enum`},
		{`args = ["--how=${value}"]`, "value-args = {well = [\"${value}\"]}", `27:1: option how: value-args[0]: unknown variable ${value}: none may be used here`},
		{`"a demonstration"`, `""`, `2:1: "description" must be one line of text`},
		{`command = ["server", "-f", "${options}", "${source}", "${mountpoint}"]`, ``, `1:1: either "command" or "in-process" is needed`},
		{`mount = "helper"`, `in-process = "mem"`, `3:1: "command" and "in-process" exclude each other`},
		{`"${options}", `, ``, `3:1: command has no ${options} element, so options and modes would be lost`},
		{`"${options}"`, `"x${options}"`, `3:1: command[2]: ${options} must be an element of its own`},
		{`${source}`, `${sauce}`, `3:1: command[3]: unknown variable ${sauce}: known are ${source}, ${mountpoint}, ${options}, ${state}`},
		{`${source}`, `${source`, `3:1: command[3]: unknown variable ${source: known are ${source}, ${mountpoint}, ${options}, ${state}`},
		{`"server"`, `"${source}"`, `3:1: the first element of command must be the program itself`},
		{`"${source}"`, `"${source}", "${state}"`, `3:1: ${state} in command and state = true go together`},
		{`root = "host"`, "root = \"host\"\ncache-limit = \"1GB\"", `9:1: cache-limit: "1GB" is not a number of bytes such as 512M, or default`},
		{`root = "host"`, "root = \"host\"\nbatch = true", `9:1: "batch" is for servers with mount = "fd" or "syscall"`},
		{`root = "host"`, "root = \"host\"\nmax-read = 4095", `9:1: "max-read" is for servers and at least 4096`},
		{`root = "host"`, "root = \"host\"\ncache-limit = \"4K\"", `9:1: cache-limit: 4K is less than the smallest, 1M`},
		{`root = "host"`, "root = \"host\"\ncache = \"writeback!\"", `9:1: cache "writeback!" is not one of writethrough, writeback; did you mean writeback?`},
		{`isolation = "gvisor"`, `isolation = "none"`, `5:1: isolation "none" is for in-process file systems`},
		{`coherence = "exclusive"`, `coherence = "loose"`, `6:1: coherence "loose" is not one of exclusive, shared`},
		{`source = "file"`, `source = "files"`, `7:1: source "files" is not one of file, directory, remote, directory-or-remote, vm, none; did you mean file?`},
		{`root = "host"`, `root = "here"`, `8:1: root "here" is neither "image", "host" nor an absolute directory`},
		{"[env]", "[image]\npackages = []\n[env]\n", `12:1: image without "packages": a list of Debian packages`},
		{"[env]", "[image]\nsuite = \"bookworm\"\n[env]\n", `11:2: image without "packages": a list of Debian packages`},
		{"[env]", "[image]\npackages = [\"a1\", \"--help\"]\n[env]\n", `12:1: packages[1]: "--help" is not a Debian package's name`},
		{"[env]", "[image]\npackages = [\"a1\", \"a1\"]\n[env]\n", `12:1: packages[1]: "a1" is there twice`},
		{"[env]", "[image]\npackages = [\"a1\"]\nsuite = \"../x\"\n[env]\n", `13:1: suite "../x" is not a Debian release such as bookworm`},
		{"[env]", "[image]\npackage = [\"a1\"]\n[env]\n", `12:1: unknown key "image.package"; did you mean packages?`},
		{"[env]", "[image]\npackages = \"a1\"\n[env]\n", `12:12: cannot decode TOML string into struct field appliance.ImageSpec.Packages of type []string`},
		{`"CHOWN"`, `"CHOWM"`, `9:1: capabilities[0]: unknown capability "CHOWM"; did you mean CHOWN?`},
		{`"CHOWN"`, `"SYS_ADMIN"`, `9:1: capabilities[0]: unknown capability "SYS_ADMIN"`},
		{`MODE =`, `"A B" =`, `12:1: env: "A B" is not a variable name`},
		{`name = "offset"`, `name = "how"`, `23:1: option "how" is declared twice`},
		{"name = \"offset\"\n", "", `14:3: option without a "name"`},
		{`type = "int"`, `type = "number"`, `17:1: option "offset": type "number" is not one of string, int, bool, enum, size, mode, file, dir, secret-file`},
		{`default = "7"`, `default = "x"`, `19:1: option "offset": default "x" is not a whole number`},
		{`default = "7"`, `default = "-7"`, `19:1: option "offset": default -7 is below the least allowed, 0`},
		{`default = "7"`, "default = \"7\"\nrequired = true", `19:1: option "offset": a required option has no default`},
		{"args = [\"-o\", \"offset=${value}\"]\n", "", `14:3: option "offset" has no "args", so it would do nothing`},
		{`offset=${value}`, `offset=${values}`, `20:1: option "offset: args[1]: unknown variable ${values}: known are ${value}`},
		{`values = ["well", "badly"]`, "", `22:3: option "how": "values" belong to type enum, and only there`},
		{`offset=${value}"]`, "offset=${value}\"]\nlist = true", `21:1: option "offset": a list is not of type bool and has no default`},
		{`offset=${value}"]`, "offset=${value}\"]\nseparator = \":\"", `21:1: option "offset": "separator" needs list = true`},
		{`offset=${value}"]`, "offset=${value}\"]\nsource = true", `21:1: option "offset": "source" belongs to type dir, and not beside "writable"`},
		{`offset=${value}"]`, "offset=${value}\"]\nmake = [\"a\"]", `21:1: option "offset": "make" needs writable = true`},
		{"type = \"int\"\nmin = 0\ndefault = \"7\"", "type = \"dir\"\nwritable = true\nmake = [\"../a\"]", `19:1: option "offset": "make" takes plain names, such as "upper"`},
		{`args = ["--how=${value}"]`, "value-args = {ill = [\"-x\"]}", `27:1: option "how": value-args for "ill", which is not one of its values`},
	} {
		t.Run(tc.new, func(t *testing.T) {
			text := strings.Replace(goodManifest, tc.old, tc.new, 1)
			if text == goodManifest {
				t.Fatalf("%q is not in the manifest", tc.old)
			}
			_, err := Parse("demo.toml", []byte(text))
			if tc.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			var pe *ParseError
			if !errors.As(err, &pe) {
				t.Fatalf("got %v, want a ParseError", err)
			}
			if got, want := err.Error(), "demo.toml:"+strings.Replace(tc.want, `option "offset: args`, `option offset: args`, 1); got != want {
				t.Errorf("\ngot  %s\nwant %s", got, want)
			}
		})
	}
}

func TestParseImage(t *testing.T) {
	const inGofer = "name = \"m\"\ndescription = \"d\"\nin-process = \"mem\"\nisolation = \"none\"\ncoherence = \"exclusive\"\nsource = \"none\"\n"
	for _, tc := range []struct {
		text, root string
		image      ImageSpec
		err        string
	}{
		{text: goodManifest, root: RootHost},
		{text: strings.Replace(goodManifest, "root = \"host\"\n", "", 1), root: RootImage},
		{text: strings.Replace(goodManifest, `root = "host"`, `root = "image"`, 1), root: RootImage},
		{text: strings.Replace(goodManifest, `root = "host"`, `root = "/srv/root"`, 1), root: "/srv/root"},
		{text: goodManifest + "[image]\npackages = [\"g++-12\"]\n", root: RootHost, image: ImageSpec{[]string{"g++-12"}, DefaultSuite}},
		{text: goodManifest + "[image]\npackages = [\"b1\", \"a1\"]\nsuite = \"trixie\"", root: RootHost, image: ImageSpec{[]string{"b1", "a1"}, "trixie"}},
		{text: inGofer},
		{text: inGofer + "root = \"image\"", err: `7:1: "root" has no meaning for an in-process file system`},
		{text: inGofer + "mount = \"fd\"", err: `7:1: "mount" has no meaning for an in-process file system`},
		{text: inGofer + "capabilities = [\"CHOWN\"]", err: `7:1: "capabilities" have no meaning for an in-process file system`},
		{text: inGofer + "state = true", err: `7:1: "state" has no meaning for an in-process file system`},
		{text: inGofer + "network = true", err: `7:1: "network" has no meaning for an in-process file system`},
		{text: inGofer + "batch = true", err: `7:1: "batch" is for servers with mount = "fd" or "syscall"`},
		{text: inGofer + "max-read = 8192", err: `7:1: "max-read" is for servers and at least 4096`},
		{text: inGofer + "[env]\nA = \"b\"", err: `7:2: "env" has no meaning for an in-process file system`},
		{text: inGofer + "[[option]]\nname = \"o\"\ndescription = \"d\"\ntype = \"string\"\nargs = [\"x\"]", err: `11:1: option "o": "args" have no meaning for an in-process file system`},
		{text: strings.Replace(inGofer, `isolation = "none"`, `isolation = "gvisor"`, 1), err: `4:1: isolation of an in-process file system must be "none"`},
		{text: inGofer + "[image]\npackages = [\"a1\"]", err: `7:2: "image" has no meaning for an in-process file system`},
	} {
		m, err := Parse("f", []byte(tc.text))
		if tc.err != "" {
			if err == nil || err.Error() != "f:"+tc.err {
				t.Errorf("got %v, want f:%s", err, tc.err)
			}
			continue
		}
		if err != nil || m.Root != tc.root || m.Image.Suite != tc.image.Suite || !slices.Equal(m.Image.Packages, tc.image.Packages) {
			t.Errorf("got %q, %+v, %v, want %q, %+v", m.Root, m.Image, err, tc.root, tc.image)
		}
	}
}

func TestParseTooLarge(t *testing.T) {
	_, err := Parse("demo.toml", make([]byte, maxManifest+1))
	if err == nil || !strings.Contains(err.Error(), "demo.toml:1:1: the manifest is larger than 65536 bytes") {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: no panic, and every error is one line with a position inside the file.
func FuzzParse(f *testing.F) {
	f.Add([]byte(goodManifest))
	f.Add([]byte("name = \"\n"))
	f.Add([]byte("[[option]]\n[option.value-args]\na = [\"${value}\"]\n"))
	f.Add([]byte("option = [{name = \"x\"}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Parse("f", data)
		if err == nil {
			return
		}
		var pe *ParseError
		if !errors.As(err, &pe) {
			t.Fatalf("got %T, want a ParseError", err)
		}
		if pe.Line < 1 || pe.Column < 1 || pe.Line > 1+strings.Count(string(data), "\n")+1 {
			t.Errorf("position %d:%d is outside of the file", pe.Line, pe.Column)
		}
		if strings.ContainsAny(pe.Error(), "\n\r") {
			t.Errorf("more than one line: %q", pe.Error())
		}
	})
}
