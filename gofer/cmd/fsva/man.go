// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// newManCommand is `fsva man`, which `make man` runs.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "write man pages of all commands to a directory",
		Long: `man writes fsva.1 and a page for each command. Their date is SOURCE_DATE_EPOCH, if
that is set.`,
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return writeManPages(newRootCommand(), args[0]) },
	}
}

func writeManPages(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root.Long += `

Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one line on standard error.`
	prepareMan(root)
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "fsva " + version, Manual: "FSVA"}, dir); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	return nil
}

// prepareMan makes Markdown, which man pages are made from, of the texts of a command
// and those below it.
func prepareMan(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	cmd.Long = markdown(cmd.Long)
	cmd.InitDefaultHelpFlag()
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.DefValue == "[]" {
			f.DefValue = ""
		}
	})
	for _, c := range cmd.Commands() {
		prepareMan(c)
	}
}

// markdown returns plain text as Markdown that looks the same: indented lines, such as
// lists and examples, stay lines of their own.
func markdown(text string) string {
	var b strings.Builder
	verbatim := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		indented := strings.HasPrefix(line, "  ")
		// Columns, the first of which is not indented.
		table := !indented && strings.Contains(strings.TrimSpace(line), "   ")
		if line != "" && (indented || table) != verbatim {
			verbatim = !verbatim
			b.WriteString("\n")
		}
		switch {
		case line == "":
		case verbatim:
			b.WriteString("\t" + line)
		default:
			b.WriteString(escape(line))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// escape keeps Markdown from reading meaning into text.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "`", "\\`", "<", `\<`, "[", `\[`, "]", `\]`).Replace(text)
}
