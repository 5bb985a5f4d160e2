package control

import (
	"context"
	"net/http"

	"overtap/dataplane"
	"overtap/dataplane/netio"
)

// maxQuery bounds the request for an explanation: a whole frame in base64 and the
// rest.
const maxQuery = 2 * netio.MaxFrame

func handleExplain(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("POST "+pathExplain, func(w http.ResponseWriter, r *http.Request) {
		var p dataplane.Query
		if !requestOf(w, r, &p, maxQuery) {
			return
		}
		x, err := d.Explain(p)
		x.Steps, x.Copies = notNil(x.Steps), notNil(x.Copies)
		answer(w, x, err)
	})
}

// Explain says what would become of a frame.
func (c *Client) Explain(ctx context.Context, p dataplane.Query) (dataplane.Explanation, error) {
	var x dataplane.Explanation
	err := c.do(ctx, http.MethodPost, pathExplain, p, &x)
	return x, err
}
