// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// node is a file of the archive. Directory entries are kept apart, so that hard
// links are several entries of one node.
type node struct {
	mode     uint32 // with the type
	uid, gid uint32
	nlink    uint32
	mtime    int64
	mtimeNs  uint32
	size     int64
	// off is where the bytes are: of a tar member the first byte, of a zip
	// member its local header. Of a sparse file it is how many are stored.
	off int64
	// aux is an index into index.zips or index.sparse, if member says so.
	aux    uint32
	member memberKind
	// first and count are the node's entries in index.dirents; of a directory.
	first, count uint32
	parent       uint32 // of a directory
}

func (n *node) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

// memberKind says how a node's bytes are stored.
type memberKind uint8

const (
	memberPlain  memberKind = iota // size bytes at off
	memberSparse                   // extents in index.sparse[aux]
	memberZip                      // described by index.zips[aux]
	memberText                     // index.texts[aux]: a symbolic link's target
)

// dirent is a name in a directory.
type dirent struct {
	name string
	node uint32
}

// extent is a run of bytes of a sparse file; the rest of the file is zeros.
type extent struct{ logical, length, physical int64 }

// xattr is an extended attribute.
type xattr struct {
	name  string
	value string
}

// index is what an archive holds. It is immutable once finish returns.
type index struct {
	nodes   []node // [0] is the root
	dirents []dirent
	sparse  [][]extent
	zips    []zipMember
	texts   []string
	xattrs  map[uint32][]xattr
}

// root is the index of the root directory in index.nodes.
const root = 0

// lookup returns the node called name in directory dir.
func (x *index) lookup(dir uint32, name string) (uint32, bool) {
	d := &x.nodes[dir]
	entries := x.dirents[d.first : d.first+d.count]
	i := sort.Search(len(entries), func(i int) bool { return entries[i].name >= name })
	if i < len(entries) && entries[i].name == name {
		return entries[i].node, true
	}
	return 0, false
}

// Limits of an archive, so that a hostile one cannot take the gofer's memory.
const (
	// defaultMaxNodes is the number of files: at about 300 bytes each while the
	// index is built.
	defaultMaxNodes = 4 << 20
	// maxText bounds names, link targets and extended attributes together.
	maxText = 512 << 20
	// maxExtents bounds the extents of all sparse files together.
	maxExtents = 4 << 20

	nameMax = 255  // NAME_MAX
	pathMax = 4095 // PATH_MAX without the NUL
	// xattrListMax is XATTR_LIST_MAX and XATTR_SIZE_MAX.
	xattrListMax = 65536
)

// builder collects members in the order of the archive. Later members replace
// earlier ones of the same name, as extracting them would.
type builder struct {
	index
	log      *slog.Logger
	maxNodes int
	names    map[nameKey]uint32
	text     int64 // bytes of text so far
	extents  int

	skipped   int
	firstSkip string
	mtime     int64 // of directories that are not members
}

type nameKey struct {
	parent uint32
	name   string
}

func newBuilder(log *slog.Logger, maxNodes int, mtime int64) *builder {
	if maxNodes <= 0 {
		maxNodes = defaultMaxNodes
	}
	b := &builder{log: log, maxNodes: maxNodes, mtime: mtime, names: map[nameKey]uint32{}}
	b.xattrs = map[uint32][]xattr{}
	b.nodes = []node{b.impliedDir(root)}
	return b
}

func (b *builder) impliedDir(parent uint32) node {
	return node{mode: unix.S_IFDIR | 0o755, mtime: b.mtime, parent: parent}
}

// errSkip says why one member cannot be shown. It is no reason to refuse the
// archive.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// split cuts a member's name into components. Absolute names start at the root,
// as tar does it; a name that climbs out of its directory is refused.
func split(name string) ([]string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return nil, errSkip("its name holds a NUL")
	}
	if len(name) > pathMax {
		return nil, errSkip("its name is longer than 4095 bytes")
	}
	parts := strings.Split(name, "/")
	kept := parts[:0]
	for _, p := range parts {
		switch {
		case p == "" || p == ".":
		case p == "..":
			return nil, errSkip(`its name has a ".."`)
		case len(p) > nameMax:
			return nil, errSkip("its name has a component of more than 255 bytes")
		default:
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// charge accounts for n bytes of text that the index keeps.
func (b *builder) charge(n int) error {
	b.text += int64(n)
	if b.text > maxText {
		return fmt.Errorf("names and attributes take more than %d bytes", int64(maxText))
	}
	return nil
}

func (b *builder) newNode(n node) (uint32, error) {
	if len(b.nodes) >= b.maxNodes {
		return 0, fmt.Errorf("more than %d files", b.maxNodes)
	}
	b.nodes = append(b.nodes, n)
	return uint32(len(b.nodes) - 1), nil
}

// set makes name in parent stand for id.
func (b *builder) set(parent uint32, name string, id uint32) error {
	key := nameKey{parent, name}
	if _, ok := b.names[key]; !ok {
		// Hard links take an entry but no node.
		if len(b.names) >= b.maxNodes {
			return fmt.Errorf("more than %d names", b.maxNodes)
		}
		if err := b.charge(len(name)); err != nil {
			return err
		}
		key.name = strings.Clone(name) // not the whole path with it
	}
	b.names[key] = id
	return nil
}

// dir returns the directory that parts name, and makes what is missing.
func (b *builder) dir(parts []string) (uint32, error) {
	cur := uint32(root)
	for _, p := range parts {
		id, ok := b.names[nameKey{cur, p}]
		if !ok {
			var err error
			if id, err = b.newNode(b.impliedDir(cur)); err != nil {
				return 0, err
			}
			if err := b.set(cur, p, id); err != nil {
				return 0, err
			}
		}
		if !b.nodes[id].isDir() {
			return 0, errSkip("it is below a member that is not a directory")
		}
		cur = id
	}
	return cur, nil
}

// add enters a member and returns its node. An errSkip means that it cannot be
// shown; any other error ends the archive.
func (b *builder) add(name string, n node) (uint32, error) {
	parts, err := split(name)
	if err != nil {
		return 0, err
	}
	if len(parts) == 0 {
		if !n.isDir() {
			return 0, errSkip("it has the name of the root directory")
		}
		b.update(root, n)
		return root, nil
	}
	parent, err := b.dir(parts[:len(parts)-1])
	if err != nil {
		return 0, err
	}
	last := parts[len(parts)-1]
	if old, ok := b.names[nameKey{parent, last}]; ok && b.nodes[old].isDir() {
		if !n.isDir() {
			return 0, errSkip("a directory of this name is already there")
		}
		b.update(old, n)
		return old, nil
	}
	n.parent = parent
	id, err := b.newNode(n)
	if err != nil {
		return 0, err
	}
	return id, b.set(parent, last, id)
}

// update gives a directory the attributes of a later member.
func (b *builder) update(id uint32, n node) {
	d := &b.nodes[id]
	d.mode, d.uid, d.gid, d.mtime, d.mtimeNs = n.mode, n.uid, n.gid, n.mtime, n.mtimeNs
	delete(b.xattrs, id)
}

// link enters another name for the earlier member called target.
func (b *builder) link(name, target string) error {
	to, err := split(target)
	if err != nil {
		return errSkip("the member that it links to cannot be shown")
	}
	id := uint32(root)
	for _, p := range to {
		var ok bool
		if id, ok = b.names[nameKey{id, p}]; !ok {
			return errSkip("it is a link to a member that is not there")
		}
	}
	if b.nodes[id].isDir() {
		return errSkip("it is a hard link to a directory")
	}
	parts, err := split(name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return errSkip("it has the name of the root directory")
	}
	parent, err := b.dir(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	last := parts[len(parts)-1]
	if old, ok := b.names[nameKey{parent, last}]; ok && b.nodes[old].isDir() {
		return errSkip("a directory of this name is already there")
	}
	return b.set(parent, last, id)
}

// addText keeps a link's target and returns its number.
func (b *builder) addText(s string) (uint32, error) {
	if err := b.charge(len(s)); err != nil {
		return 0, err
	}
	b.texts = append(b.texts, strings.Clone(s))
	return uint32(len(b.texts) - 1), nil
}

// skip records a member that cannot be shown, if that is what err says, and
// returns any other error.
func (b *builder) skip(name string, err error) error {
	var why errSkip
	if !errors.As(err, &why) {
		return err
	}
	b.skipped++
	if b.firstSkip == "" {
		b.firstSkip = fmt.Sprintf("%.200q: %s", name, string(why))
	}
	return nil
}

// finish turns what was collected into an index and drops the rest.
func (b *builder) finish() *index {
	type named struct {
		nameKey
		node uint32
	}
	all := make([]named, 0, len(b.names))
	for k, id := range b.names {
		all = append(all, named{k, id})
	}
	b.names = nil
	sort.Slice(all, func(i, j int) bool {
		if all[i].parent != all[j].parent {
			return all[i].parent < all[j].parent
		}
		return all[i].name < all[j].name
	})
	b.dirents = make([]dirent, len(all))
	for i, e := range all {
		b.dirents[i] = dirent{e.name, e.node}
		d := &b.nodes[e.parent]
		if d.count == 0 {
			d.first = uint32(i)
		}
		d.count++
		if n := &b.nodes[e.node]; n.isDir() {
			d.nlink++ // the child's ".."
		} else {
			n.nlink++
		}
	}
	for i := range b.nodes {
		if n := &b.nodes[i]; n.isDir() {
			n.nlink += 2
		}
	}
	if b.skipped > 0 {
		b.log.Warn("some members of the archive cannot be shown", "count", b.skipped, "first", b.firstSkip)
	}
	x := b.index
	return &x
}
