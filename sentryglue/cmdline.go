package sentryglue

import (
	"io"
	"slices"

	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
)

// creators are the subcommands that make a container from a bundle.
var creators = []string{"create", "run", "restore"}

// invocation is a command line that makes a container.
type invocation struct {
	command   string // one of creators
	container string // its id
	bundle    string // "" is the working directory
	rootDir   string // where runsc keeps its state
	logFile   string // where errors go as JSON, or ""
}

// parseCommandLine reads runsc's arguments with gVisor's own flag definitions.
// It reports false for every command line that makes no container, and for one
// that gVisor will refuse, which is then gVisor's to report.
func parseCommandLine(args []string) (invocation, bool) {
	if !slices.ContainsFunc(args, func(a string) bool { return slices.Contains(creators, a) }) {
		return invocation{}, false
	}
	global := flag.NewFlagSet("runsc", flag.ContinueOnError)
	global.SetOutput(io.Discard)
	config.RegisterFlags(global)
	// The flags of gVisor's cli package; that it has defined them by now is
	// only true for some.
	flag.CommandLine.VisitAll(func(f *flag.Flag) {
		if global.Lookup(f.Name) == nil {
			global.Var(ignoredFlag{f.Value}, f.Name, "")
		}
	})
	for _, name := range []string{"help", "h", "version"} {
		if global.Lookup(name) == nil {
			global.Bool(name, false, "")
		}
	}
	if global.Parse(args) != nil || global.NArg() == 0 {
		return invocation{}, false
	}

	sub := flag.NewFlagSet("command", flag.ContinueOnError)
	sub.SetOutput(io.Discard)
	inv := invocation{command: global.Arg(0)}
	switch inv.command {
	case "create":
		new(cmd.Create).SetFlags(sub)
	case "run":
		new(cmd.Run).SetFlags(sub)
	case "restore":
		new(cmd.Restore).SetFlags(sub)
	default:
		return invocation{}, false
	}
	if sub.Parse(global.Args()[1:]) != nil || sub.NArg() != 1 {
		return invocation{}, false
	}
	inv.container = sub.Arg(0)
	inv.bundle = sub.Lookup("bundle").Value.String()
	inv.rootDir = global.Lookup("root").Value.String()
	if inv.rootDir == "" {
		inv.rootDir = config.DefaultRootDir()
	}
	inv.logFile = global.Lookup("log").Value.String()
	return inv, true
}

// ignoredFlag takes any value and leaves the flag it stands for alone.
type ignoredFlag struct{ flag interface{ String() string } }

func (ignoredFlag) String() string   { return "" }
func (ignoredFlag) Set(string) error { return nil }

// IsBoolFlag reports whether the flag needs no value.
func (f ignoredFlag) IsBoolFlag() bool {
	b, ok := f.flag.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
