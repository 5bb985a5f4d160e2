package control

import (
	"context"
	"net/http"

	"overtap/dataplane"
)

// maxProbe bounds the request for an explanation: a whole frame in base64 and the
// rest.
const maxProbe = 2 * dataplane.MaxFrame

func handleExplain(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("POST "+pathExplain, func(w http.ResponseWriter, r *http.Request) {
		var p dataplane.Probe
		if !requestOf(w, r, &p, maxProbe) {
			return
		}
		x, err := d.Explain(p)
		x.Steps, x.Copies = notNil(x.Steps), notNil(x.Copies)
		answer(w, x, err)
	})
}

// Explain says what would become of a frame.
func (c *Client) Explain(ctx context.Context, p dataplane.Probe) (dataplane.Explanation, error) {
	var x dataplane.Explanation
	err := c.do(ctx, http.MethodPost, pathExplain, p, &x)
	return x, err
}
