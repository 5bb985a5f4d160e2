package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseIperf3(t *testing.T) {
	tcp := `{"end":{"streams":[{},{}],
		"sum_sent":{"seconds":2,"bytes":2600000000,"bits_per_second":10.4e9,"retransmits":17},
		"sum_received":{"seconds":2,"bytes":2500000000,"bits_per_second":10e9}}}`
	udp := `{"end":{"streams":[{}],
		"sum":{"seconds":2,"bytes":64000,"bits_per_second":256000,"lost_packets":250,"packets":1000},
		"sum_sent":{"packets":1000},"sum_received":{"packets":1000}}}`
	for _, c := range []struct {
		name, out string
		flows     int
		want      Sample
		err       string
	}{
		{name: "TCP", out: tcp, flows: 2, want: Sample{TCP: &TCPSample{BitsPerSecond: 10e9, Counts: Counts{2.5e9, 2.5e9, 0}, Retransmits: 17}}},
		{name: "UDP", out: udp, flows: 1, want: Sample{UDP: &UDPSample{OfferedPerSecond: 500, ReceivedPerSecond: 375,
			Counts: Counts{1000, 750, 250}, Bytes: 48000}}},
		{name: "a flow failed", out: tcp, flows: 4, err: "2 streams, want 4"},
		{name: "refused", out: `{"error":"unable to connect"}`, flows: 1, err: "iperf3: unable to connect"},
		{name: "nothing arrived", out: `{"end":{"streams":[{}]}}`, flows: 1, err: "delivered nothing"},
		{name: "nothing sent", out: `{"end":{"streams":[{}],"sum":{"seconds":2}}}`, flows: 1, err: "sent 0 datagrams"},
		{name: "no JSON", out: "iperf3: error", flows: 1, err: "iperf3's JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseIperf3([]byte(c.out), c.flows)
			wantError(t, err, c.err)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseSockperf(t *testing.T) {
	out := `sockperf: == version #3.7-no.git ==
sockperf: Test ended
sockperf: [Total Run] RunTime=2.000 sec; Warm up time=400 msec; SentMessages=22000; ReceivedMessages=21999
sockperf: [Valid Duration] RunTime=1.550 sec; SentMessages=17000; ReceivedMessages=16990
sockperf: ====> avg-latency=45.1 (std-dev=12.2)
sockperf: ---> percentile 99.900 =  180.250
sockperf: ---> percentile 99.000 =   98.500
sockperf: ---> percentile 50.000 =   42.125
`
	got, err := parseSockperf(out)
	check(t, err)
	want := Sample{RTT: &RTTSample{HalfMedian: 42125 * time.Nanosecond, HalfP99: 98500 * time.Nanosecond,
		Counts: Counts{17000, 16990, 10}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, err = parseSockperf("sockperf: No messages were received from the server. Is the server down?")
	wantError(t, err, "no latencies")
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("the error is %v, want it to say %q", err, want)
	}
}

func TestDaemonPerPacket(t *testing.T) {
	s := Sample{UDP: &UDPSample{Counts: Counts{Received: 40_000}}, Cost: Cost{DaemonSeconds: 0.5}}
	if got := daemonPerPacket.of(s); got != 12.5 {
		t.Errorf("0.5 s over 40,000 packets are %g µs each", got)
	}
	if got := daemonPerPacket.of(Sample{UDP: &UDPSample{}}); got != 0 {
		t.Errorf("without packets it is %g", got)
	}
}
