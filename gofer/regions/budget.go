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

package regions

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DefaultBudget is a quarter of the machine's memory: sandboxes, FS servers and
// the host's own page cache want theirs. It opens no file, so that a confined
// process can ask.
func DefaultBudget() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) / 4, nil
}
