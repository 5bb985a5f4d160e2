package dataplane

// Edges opens the two ends of the road.
type Edges interface{}
