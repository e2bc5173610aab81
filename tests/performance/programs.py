"""Compiled programs as XLA prints them, shortened: a loop with collectives for TPU, calls of NVIDIA's libraries, errors about memory."""

# Made by libtpu for four v5e chips; types, windows and annotations as it wrote them, most instructions left out.
TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,64]{1,0})->f32[64]{0}}

FileNames
1 "/somewhere/site-packages/flax/linen/linear.py"
2 "%(package)s/models/vit.py"

FunctionNames
1 "Dense.__call__"
2 "Block.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=287 end_line=287 column=4 end_column=9}
2 {file_name_id=2 function_name_id=2 line=160 end_line=160 column=4 end_column=9}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=1}


%%add.1 (a: f32[], b: f32[]) -> f32[] {
  %%a = f32[]{:T(128)} parameter(0)
  %%b = f32[]{:T(128)} parameter(1)
  ROOT %%sum = f32[]{:T(128)} add(%%a, %%b)
}

%%fused_gather (param_0: bf16[8,64]) -> bf16[32,64] {
  %%param_0 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %%all-gather.1 = bf16[32,64]{1,0:T(8,128)(2,1)} all-gather(%%param_0), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true
}

%%fused_more (param_0.1: bf16[8,64], param_1.1: f32[3,64,64]) -> bf16[32,64] {
  %%param_0.1 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %%param_1.1 = f32[3,64,64]{2,1,0:T(8,128)} parameter(1)
  ROOT %%all-gather.2 = bf16[32,64]{1,0:T(8,128)(2,1)} all-gather(%%param_0.1), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true
}

%%fused_dot (param_0.2: f32[3,64,64], param_1.2: s32[], param_2.2: bf16[32,64]) -> f32[32,64] {
  %%param_0.2 = f32[3,64,64]{2,1,0:T(8,128)} parameter(0)
  %%param_1.2 = s32[]{:T(128)} parameter(1)
  %%zero = s32[]{:T(128)} constant(0)
  %%slice = f32[1,64,64]{2,1,0:T(8,128)} dynamic-slice(%%param_0.2, %%param_1.2, %%zero, %%zero), dynamic_slice_sizes={1,64,64}
  %%matrix = f32[64,64]{1,0:T(8,128)} bitcast(%%slice)
  %%param_2.2 = bf16[32,64]{1,0:T(8,128)(2,1)} parameter(2)
  ROOT %%convolution.1 = f32[32,64]{1,0:T(8,128)S(1)} convolution(%%param_2.2, %%matrix), dim_labels=bf_io->bf
}

%%body (state: (s32[], bf16[8,64], f32[3,64,64])) -> (s32[], bf16[8,64], f32[3,64,64]) {
  %%state = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}, f32[3,64,64]{2,1,0:T(8,128)}) parameter(0)
  %%i = s32[]{:T(128)} get-tuple-element(%%state), index=0
  %%x = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%%state), index=1
  %%w = f32[3,64,64]{2,1,0:T(8,128)} get-tuple-element(%%state), index=2
  %%gather = bf16[32,64]{1,0:T(8,128)(2,1)} fusion(%%x), kind=kLoop, calls=%%fused_gather, metadata={op_name="jit(step)/jvp(video)/blocks/while/body/all_gather" stack_frame_id=1}
  %%gather.2 = bf16[32,64]{1,0:T(8,128)(2,1)} fusion(%%x, %%w), kind=kLoop, calls=%%fused_more
  %%product = f32[32,64]{1,0:T(8,128)S(1)} fusion(%%w, %%i, %%gather), kind=kOutput, calls=%%fused_dot, metadata={op_name="jit(step)/jvp(video)/blocks/while/body/dot_general" stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %%next = bf16[8,64]{1,0:T(8,128)(2,1)} copy(%%x)
  %%one = s32[]{:T(128)} constant(1)
  %%i.1 = s32[]{:T(128)} add(%%i, %%one)
  ROOT %%out = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}, f32[3,64,64]{2,1,0:T(8,128)}) tuple(%%i.1, %%next, %%w)
}

%%condition (state.1: (s32[], bf16[8,64], f32[3,64,64])) -> pred[] {
  %%bound = s32[]{:T(128)} constant(3)
  %%state.1 = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}, f32[3,64,64]{2,1,0:T(8,128)}) parameter(0)
  %%i.2 = s32[]{:T(128)} get-tuple-element(%%state.1), index=0
  ROOT %%lt = pred[]{:T(512)} compare(%%i.2, %%bound), direction=LT
}

ENTRY %%main (x.1: bf16[8,64], w.1: f32[3,64,64]) -> f32[64] {
  %%x.1 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %%w.1 = f32[3,64,64]{2,1,0:T(8,128)} parameter(1)
  %%nought = s32[]{:T(128)} constant(0)
  %%start = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}, f32[3,64,64]{2,1,0:T(8,128)}) tuple(%%nought, %%x.1, %%w.1)
  %%while.1 = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}, f32[3,64,64]{2,1,0:T(8,128)}) while(%%start), condition=%%condition, body=%%body, metadata={op_name="jit(step)/jvp(video)/blocks/while" stack_frame_id=1}
  %%mean = f32[64]{0:T(128)} custom-call(%%while.1), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/kernel" stack_frame_id=2}
  ROOT %%all-reduce.5 = f32[64]{0:T(128)} all-reduce(%%mean), channel_id=9, replica_groups=[2,2]<=[4], use_global_device_ids=true, to_apply=%%add.1
}
"""

# Made by XLA for an H100, with products in float32 at HIGHEST and at the default precision; most instructions left out.
GPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(bf16[8,1570,16,32]{3,2,1,0}, f32[256,2048]{1,0}, f32[256,224]{1,0})->f32[224,2048]{1,0}}

FileNames
1 "/somewhere/site-packages/flax/linen/linear.py"
2 "%(package)s/augment/geometry.py"
3 "%(package)s/performance/gpu_report.py"

FunctionNames
1 "Dense.__call__"
2 "resample"
3 "intercept"

FileLocations
1 {file_name_id=1 function_name_id=1 line=287 end_line=287 column=4 end_column=9}
2 {file_name_id=2 function_name_id=2 line=48 end_line=48 column=4 end_column=9}
3 {file_name_id=3 function_name_id=3 line=75 end_line=75 column=4 end_column=9}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=3 parent_frame_id=1}
3 {file_location_id=1 parent_frame_id=2}


%%fused_multiply (param_0: f32[224,2048]) -> f32[224,2048] {
  %%param_0 = f32[224,2048]{1,0} parameter(0)
  ROOT %%square = f32[224,2048]{1,0} multiply(%%param_0, %%param_0)
}

ENTRY %%main (q.1: bf16[8,1570,16,32], image.1: f32[256,2048], weights.1: f32[256,224]) -> f32[224,2048] {
  %%q.1 = bf16[8,1570,16,32]{3,2,1,0} parameter(0)
  %%image.1 = f32[256,2048]{1,0} parameter(1)
  %%weights.1 = f32[256,224]{1,0} parameter(2)
  %%forward = (bf16[8,16,1570,32]{3,1,2,0}, f32[8,16,1570]{2,1,0}, u8[0]{0}) custom-call(%%q.1, %%q.1, %%q.1), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(step)/attention" stack_frame_id=1}
  %%sums = f32[8,16,1570]{2,1,0} get-tuple-element(%%forward), index=1
  %%backward = (bf16[8,16,1570,32]{3,1,2,0}, bf16[8,16,1570,32]{3,1,2,0}, bf16[8,16,1570,32]{3,1,2,0}, u8[0]{0}) custom-call(%%q.1, %%q.1, %%q.1, %%sums), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="jit(step)/transpose(attention)" stack_frame_id=1}
  %%product = (f32[224,2048]{1,0}, s8[33554432]{0}) custom-call(%%weights.1, %%image.1), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/resize" stack_frame_id=1}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"],"algorithm":"ALG_UNSET"}}}
  %%resized = f32[224,2048]{1,0} get-tuple-element(%%product), index=0
  %%squared = f32[224,2048]{1,0} fusion(%%resized), kind=kLoop, calls=%%fused_multiply, metadata={op_name="jit(step)/square" stack_frame_id=1}
  %%second = (f32[224,2048]{1,0}, s8[33554432]{0}) custom-call(%%weights.1, %%image.1), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/dense" stack_frame_id=3}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"],"algorithm":"ALG_UNSET"}}}
  ROOT %%out = f32[224,2048]{1,0} get-tuple-element(%%second), index=0
}
"""

# The TPU compiler's error for a program whose buffers were already allocated; two of its twenty allocations.
PLACED = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 63.80G of 30.75G hbm. Exceeded hbm capacity by 33.05G.

Total hbm usage >= 65.05G:
    reserved          1.25G
    program          63.80G
    arguments            0B

Output size 0B; shares 0B with arguments.

Program hbm requirement 63.80G:
    global            1.14M
    scoped            4.56M
    HLO temp         63.79G (100.0% utilization: Unpadded (63.58G) Padded (63.58G), 0.3% fragmentation (210.89M))

  Largest program allocations in hbm:

  1. Size: 2.00G
     Operator: op_name="jit(step)/jvp(video)/blocks/block0/attention/dot_general" source_file="/x/vit.py" source_line=105
     Shape: f32[32,4096,4096]{1,2,0:T(8,128)}
     Unpadded size: 2.00G
     XLA label: fusion.1265.remat3 = fusion(custom-call.224), kind=kOutput, calls=fused_computation.957.clone
     Allocation type: HLO temp
     ==========================

  2. Size: 512.50M
     Shape: bf16[8,128]{1,0}
     Unpadded size: 512.50M
     Allocation type: HLO temp
     ==========================
"""
NOT_PLACED = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (39.70G) exceeds available HBM (15.75G)."
