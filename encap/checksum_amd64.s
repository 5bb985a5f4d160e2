//go:build !purego

#include "textflag.h"

// The halves of 64-bit lanes are added up apart, so that no addition carries,
// and without a mask: Y0 adds whole lanes modulo 2^64, Y1 their high halves.
// The low halves' sum is then Y0 - Y1<<32, exact for fewer than 2^32 lanes.

// func sumAVX2(b []byte, initial uint64) uint64
TEXT ·sumAVX2(SB), NOSPLIT, $0-40
	MOVQ  b_base+0(FP), SI
	MOVQ  b_len+8(FP), CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	SUBQ  $128, CX
	JLT   rest

	// Four vectors are added up as a tree before they meet Y0 and Y1: a round
	// waits for one addition only of the round before it.
	PCALIGN $32

loop:
	VMOVDQU (SI), Y2
	VMOVDQU 32(SI), Y3
	VMOVDQU 64(SI), Y4
	VMOVDQU 96(SI), Y5
	VPSRLQ  $32, Y2, Y6
	VPSRLQ  $32, Y3, Y7
	VPSRLQ  $32, Y4, Y8
	VPSRLQ  $32, Y5, Y9
	VPADDQ  Y2, Y3, Y2
	VPADDQ  Y4, Y5, Y4
	VPADDQ  Y6, Y7, Y6
	VPADDQ  Y8, Y9, Y8
	VPADDQ  Y2, Y4, Y2
	VPADDQ  Y6, Y8, Y6
	VPADDQ  Y2, Y0, Y0
	VPADDQ  Y6, Y1, Y1
	ADDQ    $128, SI
	SUBQ    $128, CX
	JGE     loop

rest:
	ADDQ $96, CX // bytes left, less 32
	JLT  reduce

restloop:
	VMOVDQU (SI), Y2
	VPSRLQ  $32, Y2, Y6
	VPADDQ  Y2, Y0, Y0
	VPADDQ  Y6, Y1, Y1
	ADDQ    $32, SI
	SUBQ    $32, CX
	JGE     restloop

reduce:
	VEXTRACTI128 $1, Y0, X2
	VEXTRACTI128 $1, Y1, X3
	VPADDQ       X2, X0, X0
	VPADDQ       X3, X1, X1
	VPSRLDQ      $8, X0, X2
	VPSRLDQ      $8, X1, X3
	VPADDQ       X2, X0, X0
	VPADDQ       X3, X1, X1
	VMOVQ        X0, AX
	VMOVQ        X1, BX
	VZEROUPPER

	// low + high*2^32 + initial modulo 2^64-1, where the product is a rotation.
	// An addition that carries leaves at most 2^64-2, so adding the carry of the
	// first to the second carries once at most, and that of the second no more.
	MOVQ BX, DX
	SHLQ $32, DX
	SUBQ DX, AX
	ROLQ $32, BX
	ADDQ BX, AX
	ADCQ initial+24(FP), AX
	ADCQ $0, AX
	MOVQ AX, ret+32(FP)
	RET
