// Copyright 2026 The FSVA Authors.
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package main

import (
	"os"

	"github.com/spf13/cobra"

	"fsva/gofer/serving"
)

// newGoferCommand is the confined child of `fsva serve`.
func newGoferCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gofer",
		Short:  "serve a volume to sandboxes (started by `fsva serve`)",
		Hidden: true,
		Args:   cobra.NoArgs,
		Run:    func(*cobra.Command, []string) { os.Exit(serving.Main()) },
	}
}
