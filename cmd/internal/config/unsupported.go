package config

// unsupported refuses the keys of the contract that are understood and checked
// but that nothing acts upon yet, so that nobody relies on them. Support for one
// begins with deleting its lines here.
func (c *checker) unsupported(raw *rawConfig) {
	const problem = "is not supported by this version; "
	for _, v := range raw.VXLAN {
		for _, r := range v.Neighbor {
			c.fail(r.at, problem+"leave the table out")
		}
		if v.Suppress.v {
			c.fail(v.Suppress.at, problem+"want false")
		}
	}
}
