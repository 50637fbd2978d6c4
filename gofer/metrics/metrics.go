// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics tells Prometheus about the volumes that are being served. At each
// scrape it asks the supervisor of every volume, all at once, and waits until a
// deadline: a volume that hangs is reported as such and holds up none of the others.
// Nothing is kept between scrapes.
//
// Whoever can connect may scrape, and is not trusted: scrapes are bounded in number
// and time, and names of volumes, appliances and operations are all they show. No
// source, option or client's name is among the labels.
package metrics

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fsva/gofer/latency"
	"fsva/gofer/supervisor"
	"fsva/gofer/supervisor/goferproto"
)

// namespace begins all names.
const namespace = "fsva"

// metric is one value of a volume.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// value returns false if the volume has none.
	value func(*supervisor.Status) (float64, bool)
}

func newMetric(kind prometheus.ValueType, name, help string, value func(*supervisor.Status) (float64, bool)) metric {
	return metric{prometheus.NewDesc(namespace+"_"+name, help, []string{"volume"}, nil), kind, value}
}

// number is what all counts and sizes are.
type number interface {
	~int | ~int64 | ~uint64
}

// ofGofer is a value of a gofer that answers.
func ofGofer[N number](kind prometheus.ValueType, name, help string, value func(*goferproto.Stat) N) metric {
	return newMetric(kind, name, help, func(s *supervisor.Status) (float64, bool) {
		if s.Gofer == nil {
			return 0, false
		}
		return float64(value(s.Gofer)), true
	})
}

// ofCache is a value of a volume with a cache.
func ofCache[N number](kind prometheus.ValueType, name, help string, value func(*goferproto.Cache) N) metric {
	return newMetric(kind, "cache_"+name, help, func(s *supervisor.Status) (float64, bool) {
		if s.Gofer == nil || s.Gofer.Cache == nil {
			return 0, false
		}
		return float64(value(s.Gofer.Cache)), true
	})
}

// ofLimit is a value of the limit of a volume's cache.
func ofLimit[N number](kind prometheus.ValueType, name, help string, value func(*supervisor.CacheLimit) N) metric {
	return newMetric(kind, "cache_"+name, help, func(s *supervisor.Status) (float64, bool) {
		if s.CacheLimit == nil {
			return 0, false
		}
		return float64(value(s.CacheLimit)), true
	})
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// metrics are those that have one value a volume.
var metrics = []metric{
	newMetric(gauge, "volume_up", "Whether the volume is ready and its processes answered in time.", func(s *supervisor.Status) (float64, bool) {
		return boolean(s.State == supervisor.Serving && s.GoferError == ""), true
	}),
	newMetric(gauge, "volume_start_time_seconds", "When the volume was started, in seconds since the epoch.", func(s *supervisor.Status) (float64, bool) {
		return float64(s.Started.Unix()), !s.Started.IsZero()
	}),
	newMetric(counter, "volume_restarts_total", "Gofers that were started in place of dead ones.", func(s *supervisor.Status) (float64, bool) {
		return float64(s.Restarts), s.State != supervisor.Unknown
	}),

	ofGofer(counter, "attaches_total", "Sandboxes and guests that were given the volume.", func(g *goferproto.Stat) uint64 { return g.Attaches }),
	ofGofer(counter, "attaches_refused_total", "Sandboxes and guests that were refused the volume.", func(g *goferproto.Stat) uint64 { return g.Refused }),
	ofGofer(gauge, "windows", "Windows that hypervisors have.", func(g *goferproto.Stat) int { return g.Windows }),
	ofGofer(gauge, "windows_used", "Windows that connections of guests use.", func(g *goferproto.Stat) int { return g.WindowsUsed }),

	ofGofer(gauge, "fuse_requests_in_flight", "Requests that the file system's server has not answered yet.", func(g *goferproto.Stat) uint64 { return g.InFlight }),
	ofGofer(counter, "fuse_bad_replies_total", "Malformed replies of the file system's server.", func(g *goferproto.Stat) uint64 { return g.BadReplies }),
	ofGofer(counter, "fuse_notifications_total", "Notifications of the file system's server.", func(g *goferproto.Stat) uint64 { return g.Notifies }),
	ofGofer(counter, "fuse_read_bytes_total", "File data that the file system's server sent.", func(g *goferproto.Stat) uint64 { return g.BytesRead }),
	ofGofer(counter, "fuse_written_bytes_total", "File data that the file system's server was sent.", func(g *goferproto.Stat) uint64 { return g.BytesWrite }),

	ofLimit(gauge, "configured_limit_bytes", "Most that the cache may hold, as configured.", func(l *supervisor.CacheLimit) int64 { return l.Configured }),
	ofLimit(gauge, "limit_bytes", "Most that the cache may hold now, less than configured when memory is short.", func(l *supervisor.CacheLimit) int64 { return l.Effective }),
	ofLimit(counter, "limit_reductions_total", "Times that the cache's limit was reduced because memory was short.", func(l *supervisor.CacheLimit) uint64 { return l.Reductions }),

	ofCache(gauge, "resident_bytes", "What counts against the cache's limit.", func(c *goferproto.Cache) int64 { return c.Resident }),
	ofCache(gauge, "donated_bytes", "Of the resident bytes, those in sandboxes' hands.", func(c *goferproto.Cache) int64 { return c.Donated }),
	ofCache(gauge, "dirty_bytes", "Of the resident bytes, those that the file system's server does not have yet.", func(c *goferproto.Cache) int64 { return c.Dirty }),
	ofCache(gauge, "files", "Files with data in the cache.", func(c *goferproto.Cache) int { return c.Files }),
	ofCache(gauge, "donated_files", "Files whose data is in sandboxes' hands.", func(c *goferproto.Cache) int { return c.DonatedFiles }),
	ofCache(counter, "hits_total", "Reads that were answered without a request to the file system's server.", func(c *goferproto.Cache) uint64 { return c.Hits }),
	ofCache(counter, "misses_total", "Reads that took a request to the file system's server.", func(c *goferproto.Cache) uint64 { return c.Misses }),
	ofCache(counter, "fills_total", "Requests for data to the file system's server.", func(c *goferproto.Cache) uint64 { return c.Fills }),
	ofCache(counter, "filled_bytes_total", "Data that those requests brought.", func(c *goferproto.Cache) uint64 { return c.BytesFilled }),
	ofCache(counter, "evictions_total", "Files whose data was given up for room.", func(c *goferproto.Cache) uint64 { return c.Evictions }),
	ofCache(counter, "donations_total", "Descriptors of file data that were handed to sandboxes.", func(c *goferproto.Cache) uint64 { return c.Donations }),
}

var (
	infoDesc = prometheus.NewDesc(namespace+"_volume_info", "What the volume is; always 1.",
		[]string{"volume", "appliance", "coherence", "isolation", "read_only"}, nil)
	stateDesc = prometheus.NewDesc(namespace+"_volume_state", "1 for the state that the volume is in, 0 for the others.",
		[]string{"volume", "state"}, nil)
	clientsDesc = prometheus.NewDesc(namespace+"_clients", "Clients that have the volume now.",
		[]string{"volume", "kind"}, nil)
	buildDesc = prometheus.NewDesc(namespace+"_build_info", "What the exporter was built from; always 1.",
		[]string{"version", "gvisor_version"}, nil)
)

// operations are the metrics of one kind of requests.
type operations struct {
	requests, errors, duration *prometheus.Desc
	of                         func(*supervisor.Status) map[string]latency.Op
}

func newOperations(name, what string, of func(*supervisor.Status) map[string]latency.Op) operations {
	labels := []string{"volume", "operation"}
	name = namespace + "_" + name
	return operations{
		prometheus.NewDesc(name+"_requests_total", what+".", labels, nil),
		prometheus.NewDesc(name+"_errors_total", what+" that ended with an errno, ENOENT included.", labels, nil),
		prometheus.NewDesc(name+"_request_duration_seconds", what+" that somebody waited for, by how long.", labels, nil),
		of,
	}
}

// requests are the three kinds.
var requests = []operations{
	newOperations("rpc", "Requests of sandboxes", func(s *supervisor.Status) map[string]latency.Op { return s.RPCs }),
	newOperations("guest", "Requests of virtual machines", func(s *supervisor.Status) map[string]latency.Op { return s.GuestRequests }),
	newOperations("fuse", "Requests to the file system's server", func(s *supervisor.Status) map[string]latency.Op { return s.FUSE }),
}

// Build is what the exporter was built from.
type Build struct {
	Version string
	GVisor  string
}

// collector answers one scrape.
type collector struct {
	ctx   context.Context // ends at the deadline
	dirs  supervisor.Dirs
	build Build
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildDesc, infoDesc, stateDesc, clientsDesc} {
		ch <- d
	}
	for _, m := range metrics {
		ch <- m.desc
	}
	for _, o := range requests {
		for _, d := range []*prometheus.Desc{o.requests, o.errors, o.duration} {
			ch <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(buildDesc, gauge, 1, c.build.Version, c.build.GVisor)
	all, err := supervisor.Survey(c.ctx, c.dirs)
	if err != nil {
		// The scrape fails: no volume at all would be a lie.
		ch <- prometheus.NewInvalidMetric(infoDesc, err)
		return
	}
	for _, s := range all {
		collect(ch, &s)
	}
}

// collect sends what is known of one volume.
func collect(ch chan<- prometheus.Metric, s *supervisor.Status) {
	for _, state := range supervisor.States() {
		ch <- prometheus.MustNewConstMetric(stateDesc, gauge, boolean(s.State == state), s.Name, string(state))
	}
	if s.State != supervisor.Unknown {
		readOnly := "false"
		if s.ReadOnly {
			readOnly = "true"
		}
		ch <- prometheus.MustNewConstMetric(infoDesc, gauge, 1, s.Name, s.Appliance, s.Coherence, s.Isolation, readOnly)
	}
	if g := s.Gofer; g != nil {
		ch <- prometheus.MustNewConstMetric(clientsDesc, gauge, float64(g.Clients-g.Guests), s.Name, "sandbox")
		ch <- prometheus.MustNewConstMetric(clientsDesc, gauge, float64(g.Guests), s.Name, "guest")
	}
	for _, m := range metrics {
		if v, ok := m.value(s); ok {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, s.Name)
		}
	}
	for _, o := range requests {
		for name, op := range o.of(s) {
			ch <- prometheus.MustNewConstMetric(o.requests, counter, float64(op.Requests), s.Name, name)
			ch <- prometheus.MustNewConstMetric(o.errors, counter, float64(op.Errors), s.Name, name)
			l := op.Latency
			count, buckets := histogram(l.Buckets)
			ch <- prometheus.MustNewConstHistogram(o.duration, count, float64(l.SumNs)/1e9, buckets, s.Name, name)
		}
	}
}

// bounds are those of the histograms, in microseconds: every second one of package
// latency's, from 1 µs to 17 s. All histograms have all of them, so that they can be
// added up.
var bounds = func() (b []uint64) {
	for bound := uint64(1); bound <= 1<<24; bound <<= 2 {
		b = append(b, bound)
	}
	return b
}()

// histogram makes Prometheus's cumulative buckets, by seconds, of those of a
// latency.Summary, and counts what is in them. A duration of exactly a bound is in
// the next bucket: package latency's bounds are exclusive, and its clock counts
// nanoseconds.
func histogram(from [][2]uint64) (count uint64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(bounds))
	var each [latency.MaxBuckets]uint64
	for _, b := range from {
		count += b[1]
		// The bucket without a bound is Prometheus's +Inf: the count.
		if i := slices.IndexFunc(bounds, func(bound uint64) bool { return b[0] != 0 && b[0] <= bound }); i >= 0 {
			each[i] += b[1]
		}
	}
	sum := uint64(0)
	for i, bound := range bounds {
		sum += each[i]
		buckets[(time.Duration(bound) * time.Microsecond).Seconds()] = sum
	}
	return count, buckets
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
