// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsva/gofer/appliance"
	"fsva/gofer/image"
	"fsva/gofer/supervisor"
)

// newImageCommand is `fsva image` and what is below it.
func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "build, import and look after the root file systems of appliances",
		Long: `An appliance's file system server runs in a root file system of its own, the image
of the appliance's name. Images are kept in FSVA_STATEDIR/images, an OCI image layout.`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageBuildCommand(), newImageImportCommand(), newImageLsCommand(), newImageInspectCommand(), newImageRmCommand())
	for _, c := range cmd.Commands() {
		markUsageErrors(c)
	}
	return cmd
}

// imageStore is the store that the environment names.
func imageStore() (*image.Store, error) {
	dirs, err := supervisor.DirsFromEnv()
	if err != nil {
		return nil, err
	}
	return image.Open(dirs.State), nil
}

// untilSignal is a context that ends with the first SIGINT or SIGTERM, and its end.
func untilSignal(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
}

// interrupted makes the error of an operation that a signal ended readable.
func interrupted(ctx context.Context, what string, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s: interrupted, nothing has changed", what)
	}
	return err
}

func newImageBuildCommand() *cobra.Command {
	var all, ifNeeded bool
	cmd := &cobra.Command{
		Use:   "build APPLIANCE...",
		Short: "build images from the recipes of appliances (Debian packages, by mmdebstrap)",
		Long: `build makes the image that the [image] table of an appliance's manifest describes: a
minimal root file system of Debian packages. APPLIANCE is a name or a directory with
an appliance.toml. Packages in the same versions make the same image, with the same
digest. An image that volumes run in is replaced for those that start later.

FSVA_MIRROR names a Debian mirror to use instead of Debian's own.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all != (len(args) == 0) {
				return usageError{errors.New("name appliances, or use --all")}
			}
			recipes, err := recipes(args)
			if err != nil {
				return err
			}
			store, err := imageStore()
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			for _, r := range recipes {
				if ifNeeded {
					if built, err := store.Built(r); err != nil {
						return err
					} else if built {
						continue
					}
				}
				p := newSteps(cmd.ErrOrStderr(), r.Name)
				info, err := store.Build(ctx, r, p.step)
				p.end()
				if err != nil {
					return interrupted(ctx, fmt.Sprintf("build image %q", r.Name), err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "image %s: %s, %d packages, %s\n", info.Name, info.Digest, len(info.Packages), size(info.Size))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "build the image of each appliance that has a recipe")
	cmd.Flags().BoolVar(&ifNeeded, "if-needed", false, "leave images alone that were built from the same recipe")
	return cmd
}

// recipes returns the recipes of appliances, or of all that have one when none is named.
func recipes(args []string) ([]image.Recipe, error) {
	all := len(args) == 0
	if all {
		var err error
		if args, err = appliance.Names(); err != nil {
			return nil, err
		}
	}
	var rs []image.Recipe
	for _, arg := range args {
		m, err := loadAppliance(arg)
		if err != nil {
			return nil, err
		}
		if len(m.Image.Packages) != 0 {
			rs = append(rs, image.Recipe{Name: m.Name, Suite: m.Image.Suite, Packages: m.Image.Packages})
		} else if !all {
			return nil, noRecipe(m)
		}
	}
	return rs, nil
}

// loadAppliance finds an appliance by its name or its directory.
func loadAppliance(arg string) (appliance.Manifest, error) {
	if !strings.Contains(arg, "/") {
		return appliance.Load(arg)
	}
	dir, err := filepath.Abs(arg)
	if err != nil {
		return appliance.Manifest{}, err
	}
	if _, err := os.Stat(filepath.Join(dir, appliance.ManifestName)); err != nil {
		return appliance.Manifest{}, err
	}
	parent, name := filepath.Split(dir)
	return appliance.Store{Places: []appliance.Place{{Name: filepath.Dir(filepath.Clean(arg)), FS: os.DirFS(parent)}}}.Load(name)
}

// noRecipe says why an appliance's image cannot be built.
func noRecipe(m appliance.Manifest) error {
	if m.InProcess != "" || m.Isolation == appliance.IsolationVM {
		return fmt.Errorf("appliance %q needs no image: its server is fsva itself", m.Name)
	}
	return fmt.Errorf("the manifest of appliance %q has no [image] table to build from; an image can be imported: fsva image import %s FILE", m.Name, m.Name)
}

func newImageImportCommand() *cobra.Command {
	var ref string
	cmd := &cobra.Command{
		Use:   "import NAME PATH",
		Short: "make an image of an OCI layout, a docker save file, or the tar file of a root file system",
		Long: `import takes an OCI image layout (a directory or a tar file of it), what docker save
writes, or the tar file of a root file system (docker export, mmdebstrap), plain or
compressed with gzip or zstd. NAME is that of the appliance whose server is in it.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := image.CheckName(args[0]); err != nil {
				return usageError{err}
			}
			store, err := imageStore()
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			p := newSteps(cmd.ErrOrStderr(), args[0])
			info, err := store.Import(ctx, args[0], args[1], ref, p.step)
			p.end()
			if err != nil {
				return interrupted(ctx, "import "+args[1], err)
			}
			layers := "1 layer"
			if n := len(info.Layers); n != 1 {
				layers = fmt.Sprintf("%d layers", n)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "image %s: %s, %s, %s\n", info.Name, info.Digest, layers, size(info.Size))
			return nil
		},
	}
	cmd.Flags().StringVar(&ref, "ref", "", "the `tag` or name of the image, when there are several")
	return cmd
}

func newImageLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "list images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := imageStore()
			if err != nil {
				return err
			}
			infos, err := store.List()
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), infos)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tDIGEST\tSIZE\tMADE\tIN USE")
			for _, i := range infos {
				made, used := "imported", "no"
				if i.Recipe != "" {
					made = "built"
				}
				if i.InUse {
					used = "yes"
				}
				fmt.Fprintf(t, "%s\t%.19s\t%s\t%s\t%s\n", i.Name, i.Digest, size(i.Size), made, used)
			}
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newImageInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME",
		Short: "print what is known about an image, as JSON",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := imageStore()
			if err != nil {
				return err
			}
			info, err := store.Inspect(args[0])
			if err != nil {
				return err
			}
			return writeJSON(cmd.OutOrStdout(), info)
		},
	}
}

func newImageRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "remove images that no volume runs in",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := imageStore()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := store.Remove(name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// useImage puts the directory of the appliance's image in the place of RootImage in a plan. The image stays until release
// is called or the process ends.
func useImage(p *appliance.Plan, dirs supervisor.Dirs) (release func(), err error) {
	if p.InProcess != "" || p.Root != appliance.RootImage {
		return func() {}, nil
	}
	root, release, err := image.Open(dirs.State).Acquire(p.Appliance)
	if missing := (*image.NotFoundError)(nil); errors.As(err, &missing) {
		return nil, fmt.Errorf("appliance %q has no image yet: fsva image build %s", p.Appliance, p.Appliance)
	}
	if err != nil {
		return nil, err
	}
	if err := p.UseRoot(root); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// size is a number of bytes as people read it.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// steps shows what a long operation does: on a terminal one line with the time that it has taken, else a line per step.
type steps struct {
	w        io.Writer
	name     string
	terminal bool
	begin    time.Time
	now      chan string
	done     chan struct{}
}

// newSteps starts the display. The caller calls end.
func newSteps(w io.Writer, name string) *steps {
	s := &steps{w: w, name: name, begin: time.Now(), now: make(chan string), done: make(chan struct{})}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		s.terminal = err == nil
	}
	go s.run()
	return s
}

// step is an image.Progress.
func (s *steps) step(text string) { s.now <- text }

// end takes the line from the terminal.
func (s *steps) end() {
	close(s.now)
	<-s.done
}

func (s *steps) run() {
	defer close(s.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	if !s.terminal {
		tick.Stop()
	}
	last := ""
	for {
		select {
		case text, ok := <-s.now:
			if !ok {
				if s.terminal {
					fmt.Fprint(s.w, "\r\x1b[K")
				}
				return
			}
			if text == last {
				continue
			}
			last = text
			if !s.terminal {
				fmt.Fprintf(s.w, "image %s: %s\n", s.name, text)
			}
		case <-tick.C:
		}
		if s.terminal && last != "" {
			fmt.Fprintf(s.w, "\r\x1b[Kimage %s: %s (%.0f s)", s.name, last, time.Since(s.begin).Seconds())
		}
	}
}
