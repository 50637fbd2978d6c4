// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package appliance knows what an appliance is: a packaged file system, described by images/NAME/appliance.toml, and
// how a volume of it is started. It reads manifests, checks what a user asks of a volume against them, and expands
// both into a Plan: the command, environment, binds and limits that the supervisor applies without further thought.
//
// Manifests and volume settings come from whoever administers the machine, so they are trusted but checked: a mistake
// is answered by one line that names the file, line and column, or the option and what would have been right. Values
// given by a user are data only: no value becomes an argument of its own or a second mount option. Secrets travel as
// files, never in an argument list or in the environment.
//
// Nothing here starts a process or opens a file other than manifests; the package has no state.
package appliance

import "slices"

// In-process file systems: go-fuse file systems that run inside the gofer.
const (
	InProcessDir = "dir" // a host directory
	InProcessMem = "mem" // memory, empty at the start
	InProcessZip = "zip" // a zip file, read-only
	InProcessTar = "tar" // a tar file, also one that is packed with gzip or bzip2, read-only
)

// How the FS server gets its end of the FUSE channel.
const (
	MountFD      = "fd"      // it takes /dev/fd/N as its mountpoint (libfuse3)
	MountHelper  = "helper"  // it runs fusermount or fusermount3 (libfuse2, Go, Rust)
	MountSyscall = "syscall" // it calls mount(2) itself; libfsvamount.so is preloaded
)

// Isolation of the FS server.
const (
	IsolationGVisor  = "gvisor"
	IsolationProcess = "process"
	IsolationNone    = "none" // in-process file systems only
	IsolationVM      = "vm"   // the file system is in a virtual machine, which is the source
)

// Coherence of a volume. Shared is the stricter of the two.
const (
	CoherenceExclusive = "exclusive"
	CoherenceShared    = "shared"
)

// When writes reach the file system: before they are acknowledged, or at close, fsync, or after a few seconds.
const (
	CacheWritethrough = "writethrough"
	CacheWriteback    = "writeback"
)

// What a volume's source may be.
const (
	SourceFile              = "file"
	SourceDirectory         = "directory"
	SourceRemote            = "remote"              // text that only the server understands, such as user@host:/dir
	SourceDirectoryOrRemote = "directory-or-remote" // a directory when it starts with / or ., else remote
	SourceVM                = "vm"                  // where a virtual machine exports a directory
	SourceNone              = "none"
)

// Values of VolumeSpec.Network.
const (
	NetworkNone = "none"
	NetworkHost = "host"
)

// Values of Manifest.Root that are not directories.
const (
	RootImage = "image" // the appliance's image, from `fsva image build` or `fsva image import`
	RootHost  = "host"  // a read-only view of this machine's own programs and libraries
)

// DefaultSuite is the Debian release of an image whose manifest names none.
const DefaultSuite = "bookworm"

// Places inside the FS server's root. The supervisor makes them, Plan refers to them.
const (
	RootSource  = "/source"     // the source directory, or the directory that holds the source file
	RootVolume  = "/volume"     // an empty directory, the mountpoint as the server sees it
	RootBin     = "/fsva/bin"   // fusermount, fusermount3, libfsvamount.so
	RootFiles   = "/fsva/files" // one file or directory per file option
	RootState   = "/fsva/state" // writable, the same at the volume's next start; for manifests with state = true
	RootScratch = "/tmp"        // writable, private, gone with the server
)

// ShimPath is where libfsvamount.so is found inside the FS server's root.
const ShimPath = RootBin + "/libfsvamount.so"

// ChannelFD is the descriptor at which the FS server finds its end of the FUSE channel.
const ChannelFD = 100

// Manifest is one appliance as its appliance.toml states it, checked. Immutable after Parse.
type Manifest struct {
	Name        string `toml:"name"`
	Description string `toml:"description"`

	// InProcess names the go-fuse file system that serves the volume; empty when Command does.
	InProcess string `toml:"in-process"`

	// Command is the server and its arguments, one element each. An element that is exactly ${options} is replaced by
	// the arguments of the options and modes in force; ${source}, ${mountpoint} and ${state} may be part of an element.
	Command []string `toml:"command"`
	// ReadOnlyArgs and ReadWriteArgs join ${options} on a read-only or read-write volume.
	ReadOnlyArgs  []string `toml:"read-only-args"`
	ReadWriteArgs []string `toml:"read-write-args"`
	// Package is the Debian package that has Command[0], for the error that says it is missing.
	Package string `toml:"package"`

	Mount     string `toml:"mount"`
	Isolation string `toml:"isolation"`
	Coherence string `toml:"coherence"`
	ReadOnly  bool   `toml:"read-only"`
	// StableIno says that the server's inode numbers never name two files, and that all names of a file are one node, so
	// equal numbers are hard links. Servers on libfuse's path-based interface have a node for each name, which goes with
	// that name: for them it is false even when their numbers are good.
	StableIno bool `toml:"stable-ino"`
	// NodePerName says that the server is on libfuse's path-based interface and reports the link counts and inode numbers
	// of its files, so that the names of a file can be brought together (package hardlinks).
	NodePerName bool `toml:"node-per-name"`
	// ListsXattrs says that the server lists every extended attribute that it has a value for, so that its word on which
	// there are saves asking for each. It counts on exclusive volumes only.
	ListsXattrs bool `toml:"lists-xattrs"`
	// ParallelDirops says that the server takes several LOOKUP and READDIR requests for one directory at a time, even if it
	// does not agree to FUSE_PARALLEL_DIROPS, as those on libfuse 3.14 do not. One that handles a request at a time does.
	ParallelDirops bool `toml:"parallel-dirops"`

	// Batch says that the server is one thread that handles one request at a time: it gets those that wait in one system
	// call, and their replies leave in one.
	Batch bool `toml:"batch"`
	// MaxRead is the largest read in bytes that the server is asked for; 0 means that the channel alone bounds it.
	MaxRead int `toml:"max-read"`

	Source string `toml:"source"`
	// SourceSuffixes, when there are any, are the file names that a file source may end in.
	SourceSuffixes []string `toml:"source-suffixes"`
	// Network says that the server cannot work without the network; a volume must then ask for it.
	Network bool `toml:"network"`
	// CacheLimit is what the volume's cache may take, as ParseCacheLimit reads it; empty is the default.
	CacheLimit string `toml:"cache-limit"`
	// Cache is when writes reach the server: CacheWritethrough (empty means that, too) or CacheWriteback. It is a default
	// for volumes that can do either, which are those that are exclusive and not read-only.
	Cache string `toml:"cache"`
	// State says that the server keeps something between runs, in ${state}, such as files not uploaded yet.
	State bool `toml:"state"`
	// Capabilities are what the server keeps as uid 0, without "CAP_". See Plan.Capabilities for what is added.
	Capabilities []string `toml:"capabilities"`
	// Root is RootImage, RootHost or the absolute path of a directory. It is RootImage when the manifest has none; empty for
	// in-process file systems and with isolation vm, whose server is fsva.
	Root string `toml:"root"`
	// Image says what the image is built from. Without packages it can only be imported.
	Image ImageSpec `toml:"image"`
	// Env is added to the server's environment, which is otherwise empty but for what Plan.Env says.
	Env map[string]string `toml:"env"`

	Options []OptionSpec `toml:"option"`
}

// ImageSpec is the recipe of an appliance's image.
type ImageSpec struct {
	// Packages are Debian packages; what they depend on comes with them.
	Packages []string `toml:"packages"`
	// Suite is the Debian release that they come from; DefaultSuite when the manifest has none.
	Suite string `toml:"suite"`
}

// Option types.
const (
	TypeString     = "string"
	TypeInt        = "int"
	TypeBool       = "bool"
	TypeEnum       = "enum"
	TypeSize       = "size" // a number of bytes, as package bytesize reads it
	TypeMode       = "mode" // permission bits, octal
	TypeFile       = "file"
	TypeDir        = "dir"
	TypeSecretFile = "secret-file" // a file that other users must not be able to read
)

// OptionSpec declares one option of an appliance, set with --option NAME=VALUE.
type OptionSpec struct {
	Name        string   `toml:"name"`
	Description string   `toml:"description"`
	Type        string   `toml:"type"`
	Values      []string `toml:"values"` // of an enum
	Min         *int64   `toml:"min"`    // of an int
	Max         *int64   `toml:"max"`    // of an int
	Default     string   `toml:"default"`
	Required    bool     `toml:"required"`
	// Writable makes the bind of a dir option writable, whatever the volume is.
	Writable bool `toml:"writable"`
	// Source says that a dir option is more of what the volume shows, so its bind is writable if the volume is.
	Source bool `toml:"source"`
	// Make are the subdirectories of a writable dir option that the server needs and that are made for it. They are in one
	// bind with the directory, so that the server can rename from one to another.
	Make []string `toml:"make"`
	// List says that the option may be given several times. Args are used for each value, in the order given, unless there
	// is a Separator: they are then used once, and ${value} is all values with the separator between them.
	List      bool   `toml:"list"`
	Separator string `toml:"separator"`
	// Args join the command line when the option has a value; ${value} in them is that value, or for a file type its
	// path inside the FS server's root. A bool's Args are used when it is true.
	Args []string `toml:"args"`
	// ValueArgs of an enum replace Args for the values that it lists.
	ValueArgs map[string][]string `toml:"value-args"`
}

// option returns the declaration of the option called name.
func (m *Manifest) option(name string) (*OptionSpec, bool) {
	i := slices.IndexFunc(m.Options, func(o OptionSpec) bool { return o.Name == name })
	if i < 0 {
		return nil, false
	}
	return &m.Options[i], true
}

// isPath reports whether the option's value is a path on the host that is bound into the FS server's root.
func (o *OptionSpec) isPath() bool {
	return o.Type == TypeFile || o.Type == TypeDir || o.Type == TypeSecretFile
}
