// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Command fsva serves file system virtual appliances: third-party file systems,
// each in a sandbox of its own, for containers and virtual machines.
//
// It is also what runs inside of them: under the name of fusermount or
// fusermount3 it hands the FUSE channel to an FS server, and its hidden commands
// are the processes that `fsva serve` starts.
//
// Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one line on standard
// error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fsva/gofer/fusehelper"
)

func main() {
	if len(os.Args) > 0 && slices.Contains(fusehelper.Names, filepath.Base(os.Args[0])) {
		os.Exit(fusehelper.Main(os.Args))
	}
	root := newRootCommand()
	if len(os.Args) > 0 && slices.Contains(mountHelpers, filepath.Base(os.Args[0])) {
		args, done, err := mountHelperArgs(os.Args)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
			os.Exit(2)
		}
		if done {
			os.Exit(0)
		}
		root.SetArgs(args)
	}
	os.Exit(run(root))
}

// run executes the command line and returns the exit status.
func run(root *cobra.Command) int {
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return 0
	}
	var silent silentError
	if errors.As(err, &silent) {
		return silent.code
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(root.ErrOrStderr(), "fsva: %s (see %s --help)\n", text, cmd.CommandPath())
		return 2
	}
	fmt.Fprintf(root.ErrOrStderr(), "fsva: %s\n", text)
	return 1
}

// usageError is a command line that asks for nothing that fsva can do.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "fsva",
		Short: "run file systems in sandboxes of their own and serve them to containers",
		Long: `fsva runs a third-party file system, unmodified, in its own sandbox and serves it
to containers (docker run --runtime=runsc -v /run/fsva/volumes/NAME:/data …).

FSVA_RUNDIR (default /run/fsva) and FSVA_STATEDIR (default /var/lib/fsva) say
where its files are.`,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(versionText())
	root.AddCommand(
		newServeCommand(), newVolumeCommand(), newVolumePluginCommand(), newLsCommand(), newStatCommand(), newCtlCommand(), newStopCommand(),
		newMountCommand(), newExportCommand(), newDemoCommand(), newImageCommand(),
		newInstallCommand(), newUninstallCommand(), newDoctorCommand(), newTopCommand(), newMetricsCommand(),
		newFSServerCommand(), newVMServerCommand(), newVsockDeviceCommand(), newGoferCommand(), newDemoGuestCommand(), newManCommand(),
	)
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, cmd := range root.Commands() {
		markUsageErrors(cmd)
	}
	addCompletions(root)
	return root
}

// markUsageErrors makes errors about a command's arguments usageErrors.
func markUsageErrors(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// noCommand answers arguments that begin with no command's name.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q", args[0])
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		text += fmt.Sprintf(", did you mean %q?", s[0])
	}
	return usageError{errors.New(text)}
}
