package netlab

import "testing"

func TestParseSNMP(t *testing.T) {
	snmp := "Tcp: RtoMin MaxConn RetransSegs InCsumErrors\nTcp: 200 -1 7 2\nUdp: InCsumErrors\nUdp: 3\n"
	c := map[string]uint64{}
	if err := parseSNMP(c, snmp, "Udp6InCsumErrors     5\n"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint64{"TcpRetransSegs": 7, "TcpInCsumErrors": 2, "UdpInCsumErrors": 3, "Udp6InCsumErrors": 5} {
		if got, ok := c[name]; !ok || got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	for _, bad := range [][2]string{{"Tcp: A B\nTcp: 1\n", ""}, {"Tcp: A\nUdp: 1\n", ""}, {"", "x\n"}, {"", "x y\n"}} {
		if err := parseSNMP(map[string]uint64{}, bad[0], bad[1]); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
}
